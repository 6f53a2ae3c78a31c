"""A QUIC server whose connection IDs carry its server ID, and a client that changes its address: by aioquic (RFC 9000).

    quic_end.py serve  ADDRESS PORT NAME SERVER_ID KEY DIRECTORY
    quic_end.py roam   VIP PORT CONNECTIONS ROUNDS ADDRESS...

The server makes its connection IDs after draft-ietf-quic-load-balancers-21 section 5.4: a server ID of three bytes and a nonce of
eight, in four passes; the code is this test's own, by the text of the draft. It answers a stream with its name and what came.

The client holds CONNECTIONS connections. In each of ROUNDS it changes every one's address and port to the next of its
ADDRESSes, every other time the connection ID too, asks again, and fails unless the same server answers. It prints the names
of the servers, one a connection.
"""

import asyncio
import os
import ssl
import sys

from aioquic.asyncio import QuicConnectionProtocol, serve
from aioquic.quic import connection as quic_connection
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from datetime import datetime, timedelta, timezone

SERVER_ID_LEN, NONCE_LEN = 3, 8
ID_LEN = 1 + SERVER_ID_LEN + NONCE_LEN


def encrypted(key, server_id, nonce):
    """The four passes, on integers of 44 bits: 11 bytes are an odd number."""
    length = len(server_id) + len(nonce)
    half_len, bits = (length + 1) // 2, 4 * length
    plaintext = int.from_bytes(server_id + nonce, "big")
    left, right = plaintext >> bits, plaintext & (1 << bits) - 1
    spare = 8 * half_len - bits

    def result(number, half, is_left):
        # Of an odd number of bytes the left half ends with four zero bits, the right one begins with them.
        octets = (half << spare if is_left else half).to_bytes(half_len, "big")
        block = octets.ljust(14, b"\0") + bytes([length, number])
        cipher = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
        head = int.from_bytes((cipher.update(block) + cipher.finalize())[:half_len], "big")
        return head & (1 << bits) - 1 if is_left else head >> spare

    for number in (1, 3):
        right ^= result(number, left, True)
        left ^= result(number + 1, right, False)
    return (left << bits | right).to_bytes(length, "big")


def give_ids(server_id, key):
    """Has aioquic take its connection IDs from here: it asks for nothing else of this length."""

    class Os:
        @staticmethod
        def urandom(length):
            if length != ID_LEN:
                return os.urandom(length)
            first = bytes([ID_LEN - 1])
            return first + encrypted(key, server_id, os.urandom(NONCE_LEN))

    quic_connection.os = Os


def certificate(directory, name):
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(timezone.utc)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    paths = [os.path.join(directory, f"{name}.{end}") for end in ("crt", "key")]
    pem = serialization.Encoding.PEM
    texts = [
        made.public_bytes(pem),
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
    ]
    for path, text in zip(paths, texts):
        with open(path, "wb") as file:
            file.write(text)
    return paths


class Server(QuicConnectionProtocol):
    name = b""

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived) and event.end_stream:
            self._quic.send_stream_data(event.stream_id, self.name + b" " + event.data, end_stream=True)
            self.transmit()


async def run_server(address, port, name, server_id, key, directory):
    Server.name = name.encode()
    give_ids(bytes.fromhex(server_id), bytes.fromhex(key))
    configuration = QuicConfiguration(is_client=False, alpn_protocols=["who"], connection_id_length=ID_LEN)
    configuration.load_cert_chain(*certificate(directory, name))
    await serve(address, int(port), configuration=configuration, create_protocol=Server)
    print("ready", flush=True)
    await asyncio.Event().wait()


class Client(QuicConnectionProtocol):
    def __init__(self, quic):
        super().__init__(quic)
        self.answers = {}

    def quic_event_received(self, event):
        if isinstance(event, StreamDataReceived):
            data, done = self.answers.setdefault(event.stream_id, (bytearray(), asyncio.Event()))
            data.extend(event.data)
            if event.end_stream:
                done.set()

    async def move_to(self, address):
        before = self._transport
        loop = asyncio.get_running_loop()
        await loop.create_datagram_endpoint(lambda: self, local_addr=(address, 0))
        if before is not None:
            before.close()

    async def ask(self, question):
        stream = self._quic.get_next_available_stream_id()
        data, done = self.answers.setdefault(stream, (bytearray(), asyncio.Event()))
        self._quic.send_stream_data(stream, question, end_stream=True)
        self.transmit()
        await asyncio.wait_for(done.wait(), 10)
        name, echo = bytes(data).split(b" ", 1)
        assert echo == question, "the question has changed"
        return name.decode()


async def roam(vip, port, connections, rounds, *addresses):
    clients, names = [], []
    for _ in range(int(connections)):
        configuration = QuicConfiguration(is_client=True, alpn_protocols=["who"], verify_mode=ssl.CERT_NONE)
        client = Client(QuicConnection(configuration=configuration))
        await client.move_to(addresses[0])
        client.connect((vip, int(port)))
        await asyncio.wait_for(client.wait_connected(), 10)
        clients.append(client)
        names.append(await client.ask(b"first"))
    for number in range(1, int(rounds) + 1):
        # Backwards, lest a round robin that has come full circle gives every one its server again.
        for client, name in reversed(list(zip(clients, names))):
            if number % 2 == 0:
                client.change_connection_id()
            await client.move_to(addresses[number % len(addresses)])
            answered = await client.ask(b"again %d" % number)
            assert answered == name, f"round {number}: {answered} in place of {name}"
    print("\n".join(names))


role, arguments = sys.argv[1], sys.argv[2:]
asyncio.run({"serve": run_server, "roam": roam}[role](*arguments))
