"""What a stranger finds at a host: its open TCP ports, and what each says to calls of Ray.

`python probe.py HOST` prints the ports as JSON, `python probe.py HOST PORTS [TOKEN]` {port: {call: answer}}.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
import sys
import urllib.error
import urllib.request
from http.client import HTTPException

# of every service that Ray 2.60 offers to others: calls that an empty message does no harm to ...
ASKING = (
    "JobInfoGcsService/GetNextJobID", "NodeInfoGcsService/GetAllNodeInfo", "ActorInfoGcsService/GetAllActorInfo",
    "NodeManagerService/GetNodeStats", "CoreWorkerService/GetCoreWorkerStats",
)  # fmt: skip
# ... and what lets a node join, gets a process, runs a task, takes an object
DOING = (
    "NodeInfoGcsService/RegisterNode", "NodeManagerService/RequestWorkerLease", "CoreWorkerService/PushTask",
    "ObjectManagerService/Pull",
)  # fmt: skip
UNIMPLEMENTED, UNAUTHENTICATED = "12", "16"  # of gRPC


async def scan(host: str) -> list[int]:
    """Ports that answer."""
    gate, found = asyncio.Semaphore(400), []

    async def knock(port: int) -> None:
        async with gate:
            with contextlib.suppress(OSError, TimeoutError):
                _, writer = await asyncio.wait_for(asyncio.open_connection(host, port), 3)
                found.append(port)
                writer.close()

    await asyncio.gather(*(knock(port) for port in range(1, 2**16)))
    return sorted(found)


def grpc(host: str, port: int, call: str, token: str) -> str:
    """The gRPC status that an empty message to a call is answered with, "" if the other end does not speak gRPC."""

    def literal(name: str, value: str) -> bytes:
        return b"\0" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()

    def frame(kind: int, flags: int, stream: int, content: bytes) -> bytes:
        return len(content).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + content

    headers = {
        ":method": "POST", ":scheme": "http", ":path": f"/ray.rpc.{call}", ":authority": "ray",
        "content-type": "application/grpc", "te": "trailers",
    }  # fmt: skip
    headers |= {"authorization": f"Bearer {token}"} if token else {}
    block = b"".join(literal(name, value) for name, value in headers.items())
    hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b"")
    answer = b""
    with contextlib.suppress(OSError), socket.create_connection((host, port), 3) as connection:
        connection.settimeout(1)
        connection.sendall(hello + frame(1, 4, 1, block) + frame(0, 1, 1, bytes(5)))
        while b"grpc-status" not in answer and (more := connection.recv(2**16)):
            answer += more
    status = re.search(rb"grpc-status[\0-\x7f](\d+)", answer)
    return status[1].decode() if status else ""


def http(host: str, port: int, token: str) -> str:
    """The HTTP status of a request for a runtime environment, "" if the other end does not speak HTTP."""
    headers = {"authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://{host}:{port}/get_or_create_runtime_env", b"", headers)
    try:
        return str(urllib.request.urlopen(request, timeout=3).status)
    except urllib.error.HTTPError as error:
        return str(error.code)
    except (OSError, ValueError, HTTPException):
        return ""


if __name__ == "__main__":
    host, *words = sys.argv[1:]
    if not words:
        print(json.dumps(asyncio.run(scan(host))))
    else:
        ports, token = json.loads(words[0]), words[1] if words[1:] else ""
        calls = ASKING if token else ASKING + DOING
        found = {port: {call: grpc(host, port, call, token) for call in calls} for port in ports}
        print(json.dumps({port: {**of_ray, "HTTP": http(host, port, token)} for port, of_ray in found.items()}))
