timeout 60 /work/main/.venv/bin/python -m steelyard.cli.main serve --port 8123 --replicas 2 --max-model-len 512 --max-num-seqs 8 > .srv.log 2>&1 &
PID=$!
for i in $(seq 100); do curl -sf localhost:8123/health && break; sleep 0.2; done
ps --ppid $PID -o pid,args
curl -s localhost:8123/v1/chat/completions -H 'Content-Type: application/json' -d '{"messages":[{"role":"user","content":"Why is the sky blue?"}],"max_tokens":20,"temperature":0}'; echo
curl -s localhost:8123/v1/completions -H 'Content-Type: application/json' -d '{"prompt":"Once upon","max_tokens":5,"n":2,"seed":3,"logprobs":1,"echo":true}'; echo
curl -s localhost:8123/v1/embeddings -H 'Content-Type: application/json' -d '{"input":["Once upon","b"],"dimensions":3}'; echo
curl -s localhost:8123/metrics | grep -v "^#" | grep "vllm:num\|prefix\|generation_tokens"
kill -TERM $PID; wait $PID; echo rc $?
