#!/usr/bin/env python3
"""Client of draft-banks-quic-performance with aioquic, an independent QUIC implementation.

Asks stoqd at [::1]:PORT for a number of octets on one stream, counts what comes, and prints one JSON object:
{"aioquic", "alpn", "received", "ended", "error"}. The node's certificate is verified against --trust.
"""

import argparse
import asyncio
import json
import struct
import sys

import aioquic
from aioquic.asyncio.client import connect
from aioquic.asyncio.protocol import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, HandshakeCompleted, ProtocolNegotiated, StreamDataReceived

PATIENCE_SECONDS = 120


class PerfClient(QuicConnectionProtocol):
    def __init__(self, *arguments, **more):
        super().__init__(*arguments, **more)
        self.received = 0
        self.ended = False
        self.alpn = None
        self.error = None
        self.done = asyncio.Event()

    def ask(self, octets):
        stream = self._quic.get_next_available_stream_id()
        self._quic.send_stream_data(stream, struct.pack("!Q", octets), end_stream=True)
        self.transmit()

    def quic_event_received(self, event):
        if isinstance(event, (HandshakeCompleted, ProtocolNegotiated)):
            self.alpn = event.alpn_protocol
        elif isinstance(event, StreamDataReceived):
            self.received += len(event.data)
            if event.end_stream:
                self.ended = True
                self.done.set()
        elif isinstance(event, ConnectionTerminated):
            if not self.ended:
                self.error = f"{event.error_code:#x} {event.reason_phrase}"
            self.done.set()


def parse():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--node", required=True, help="the node's name, as its certificate proves it")
    parser.add_argument("--trust", action="append", required=True, help="PEM of an authority; repeat for more")
    parser.add_argument("--certificate", help="PEM of this client's certificate")
    parser.add_argument("--key", help="PEM of its key")
    parser.add_argument("--bytes", type=int, required=True)
    parser.add_argument("--alpn", default="perf")
    parser.add_argument("--anonymous", action="store_true", help="present no certificate")
    return parser.parse_args()


async def run(arguments):
    configuration = QuicConfiguration(
        is_client=True,
        alpn_protocols=[arguments.alpn],
        server_name=f"{arguments.node}.nodes.hypermesh",
        max_data=64 << 20,
        max_stream_data=16 << 20,
    )
    anchors = b""
    for path in arguments.trust:
        with open(path, "rb") as file:
            anchors += file.read()
    configuration.load_verify_locations(cadata=anchors)
    if not arguments.anonymous:
        configuration.load_cert_chain(arguments.certificate, arguments.key)
    result = {"aioquic": aioquic.__version__, "alpn": None, "received": 0, "ended": False, "error": None}
    client = None
    try:
        async with asyncio.timeout(PATIENCE_SECONDS):
            async with connect(
                "::1", arguments.port, configuration=configuration, create_protocol=PerfClient
            ) as client:
                client.ask(arguments.bytes)
                await client.done.wait()
    except (ConnectionError, TimeoutError) as error:
        result["error"] = type(error).__name__
    if client is not None:
        result.update(alpn=client.alpn, received=client.received, ended=client.ended)
        result["error"] = client.error or result["error"]
    return result


if __name__ == "__main__":
    json.dump(asyncio.run(run(parse())), sys.stdout)
    print()
