"""Serves a calculator with commlib-py's RPCService: `add`, `div`, `sleep` and `echo`.

    rpc_server.py URL [--service NAME]

Every request is reported as {"event": "request", "method": …, "data": …} before it is answered.
"""

import argparse
import time

import peer
from commlib.msg import RPCMessage


class Add(RPCMessage):
    class Request(RPCMessage.Request):
        a: int
        b: int

    class Response(RPCMessage.Response):
        c: int = 0


def add(request):
    peer.emit("request", method="add", data=request.model_dump())
    return Add.Response(c=request.a + request.b)


def div(data):
    peer.emit("request", method="div", data=data)
    if data["b"] == 0:
        # One of the exceptions that commlib-py answers, with an empty object, on both brokers.
        raise ValueError("division by zero")
    return {"c": data["a"] // data["b"]}


def sleep(data):
    peer.emit("request", method="sleep", data=data)
    time.sleep(data["ms"] / 1000)
    return {"slept": data["ms"]}


def echo(data):
    peer.emit("request", method="echo", data=data)
    return data


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--service", default="calculator")
    args = parser.parse_args()
    peer.exit_with_stdin()
    node = peer.node(args.url)
    services = [node.create_rpc(rpc_name=f"{args.service}.add", msg_type=Add, on_request=add)]
    for handler in (div, sleep, echo):
        services.append(node.create_rpc(rpc_name=f"{args.service}.{handler.__name__}", on_request=handler))
    node.run()
    for service in services:
        peer.wait_consuming(service)
    peer.ready()
    peer.wait_for_end()


if __name__ == "__main__":
    main()
