"""Calls RPCs with commlib-py's RPCClient, one after the other, and ends.

    rpc_client.py URL [--timeout SECONDS] [--typed] [--correlation-id] ADDRESS JSON [ADDRESS JSON …]

One line per call: {"event": "reply", "data": …, "seconds": …}, {"event": "TIMEOUT", …} when commlib-py returns nothing
(that is how it reports a timeout), or {"event": "raised", "type": …, "message": …}.

`--typed` decodes replies into a model with one required field `c`, as a typed commlib-py program would.
`--correlation-id` asks commlib-py to match replies by correlation id (RabbitMQ only).
"""

import argparse
import json
import time

import peer
from commlib.msg import RPCMessage


class Typed(RPCMessage):
    class Request(RPCMessage.Request):
        model_config = {"extra": "allow"}

    class Response(RPCMessage.Response):
        c: int


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("url")
    parser.add_argument("--timeout", type=float, default=10.0)
    parser.add_argument("--typed", action="store_true")
    parser.add_argument("--correlation-id", action="store_true")
    parser.add_argument("calls", nargs="+")
    args = parser.parse_args()
    if len(args.calls) % 2:
        parser.error("every address needs its data")
    calls = [(address, json.loads(data)) for address, data in zip(args.calls[::2], args.calls[1::2])]
    peer.exit_with_stdin()

    node = peer.node(args.url)
    options = {"msg_type": Typed if args.typed else None}
    if args.correlation_id:
        options["use_corr_id"] = True
    clients = {address: node.create_rpc_client(rpc_name=address, **options) for address, _ in calls}
    node.run()
    peer.ready()
    for address, data in calls:
        started = time.monotonic()
        try:
            reply = clients[address].call(Typed.Request(**data) if args.typed else data, timeout=args.timeout)
            if args.typed and reply is not None:
                reply = reply.model_dump()
            event = {"event": "TIMEOUT"} if reply is None else {"event": "reply", "data": reply}
        except Exception as error:
            event = {"event": "raised", "type": type(error).__name__, "message": str(error)}
        peer.emit(address=address, seconds=round(time.monotonic() - started, 3), **event)


if __name__ == "__main__":
    main()
