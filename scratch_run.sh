export PYTHONPATH=/tmp/h/http/src
cd /tmp
taskset -c 0 /work/main/.venv/bin/python -m steelyard.cli.main serve --port 18123 --max-model-len 2048 --api-key me:secretsecret --header-timeout 2 > /tmp/h/http/scratch.log 2>&1 &
P=$!
C="curl -s -m 20 -H Authorization:\ Bearer\ secretsecret"
for i in $(seq 60); do curl -s -m 1 -o /dev/null -w "%{http_code}\n" localhost:18123/health | grep -q 200 && break; sleep 0.2; done
curl -s localhost:18123/v1/models; echo
curl -s -m 20 -H "Authorization: Bearer secretsecret" localhost:18123/v1/chat/completions -d '{"messages":[{"role":"user","content":"Hi"}],"max_tokens":20}'; echo
curl -s -m 1 -N -H "Authorization: Bearer secretsecret" localhost:18123/v1/chat/completions -d '{"messages":[{"role":"user","content":"Tell a long story"}],"stream":true,"ignore_eos":true}' | tail -2; echo
sleep 0.3
curl -s -m 20 -H "Authorization: Bearer secretsecret" localhost:18123/metrics | grep -v "^#" | grep -v bucket
python3 - <<'X'
import socket,time
s=socket.create_connection(("localhost",18123)); s.send(b"GET / HTTP/1.1\r\nHo"); t=time.time(); print(s.recv(1000), time.time()-t)
s=socket.create_connection(("localhost",18123)); s.send(b"GET / HTTP/1.1\r\nHo"+b"x"*70000); t=time.time(); print(s.recv(1000), time.time()-t)
X
kill -TERM $P; wait $P; echo exit $?
tail -25 /tmp/h/http/scratch.log
