"""Links to a second process: both numbers of every kind, and a peer that does not outlive them."""

import socket
import threading

import pytest

from steelyard.hardware.probe import link_peer, links
from steelyard.hardware.probe.reading import Scale, Unit

SCALE = Scale(budget_s=0.001, max_bytes=1, disk_bytes=1, num_threads=1)


def test_latency_and_bandwidth_of_every_kind(monkeypatch):
    children = []
    start = links.subprocess.Popen
    monkeypatch.setattr(links.subprocess, "Popen", lambda *a, **k: children.append(start(*a, **k)) or children[-1])
    readings = tuple(links.measure(SCALE))
    expected = [(kind, unit) for kind in links.KINDS for unit in (Unit.SECONDS, Unit.BYTES_PER_S)]
    assert [(r.name, r.unit) for r in readings] == expected
    assert all(r.value > 0 for r in readings)
    assert [child.returncode for child in children] == [0, 0, 0]


def test_a_peer_that_cannot_start_is_an_error(monkeypatch):
    monkeypatch.setattr(links.link_peer, "__file__", "/no/such/file.py")
    monkeypatch.setattr(links, "_TIMEOUT_S", 1.0)
    with pytest.raises(OSError):  # noqa: PT011 - a time-out or a broken connection
        tuple(links.measure(SCALE))


def test_the_peer_echoes_and_swallows_streams():
    here, there = socket.socketpair()
    server = threading.Thread(target=link_peer.serve_socket, args=(there,))
    server.start()
    message = bytearray(b"x" * link_peer.PING)
    here.sendall(message)
    answer = bytearray(link_peer.PING)
    link_peer.receive_exactly(here, memoryview(answer))
    assert answer == message
    head = (link_peer.STREAM + (3).to_bytes(8, "little")).ljust(link_peer.PING, b"\0")
    here.sendall(head + b"abc")
    link_peer.receive_exactly(here, memoryview(answer))
    assert answer == head
    here.sendall(link_peer.BYE.ljust(link_peer.PING, b"\0"))
    server.join(10)
    assert not server.is_alive()
    there.close()
    with pytest.raises(ConnectionError):
        link_peer.receive_exactly(here, memoryview(answer))
    here.close()
