"""TLS, with a certificate authority of the test's own: who is trusted, who is not, and both sides known to each other."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import select
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.harness import running_worker
from tests.rights import admin
from tracked_queue import EnqueueUnavailableError, TrackedQueue
from tracked_queue.chaos.server import RedisServer


@dataclass
class Authority:
    """Issues certificates into a folder."""

    folder: Path
    name: str

    def __post_init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, self.name)])
        self.certificate = self._write(self.name, self._made(self._name, self._key.public_key(), None), None)

    def _made(self, subject: x509.Name, key: ec.EllipticCurvePublicKey, address: str | None) -> x509.Certificate:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder().subject_name(subject).issuer_name(self._name).public_key(key)
            .serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=address is None, path_length=None), critical=True)
        )  # fmt: skip
        # Python 3.13 checks as RFC 5280 says: who signed, and what the authority's key may do.
        signer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        builder = builder.add_extension(signer, critical=False)
        if address is None:
            signs = x509.KeyUsage(
                digital_signature=False, content_commitment=False, key_encipherment=False, data_encipherment=False,
                key_agreement=False, key_cert_sign=True, crl_sign=True, encipher_only=False, decipher_only=False,
            )  # fmt: skip
            own = x509.SubjectKeyIdentifier.from_public_key(key)
            builder = builder.add_extension(signs, critical=True).add_extension(own, critical=False)
        else:
            names = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    def issue(self, name: str, address: str) -> tuple[Path, Path]:
        """Certificate and key for an address."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        return self._write(name, self._made(subject, key.public_key(), address), key), self.folder / f"{name}.key"

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey | None) -> Path:
        path = self.folder / f"{name}.crt"
        path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        if key is not None:
            plain = serialization.NoEncryption()
            encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
            (self.folder / f"{name}.key").write_bytes(key.private_bytes(encoding, form, plain))
        return path


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@contextlib.contextmanager
def behind_tls(
    server: RedisServer, authority: Authority, *, address: str = "127.0.0.1", mutual: bool = False
) -> Iterator[str]:
    """The server behind an end of TLS on loopback, in a thread of its own; its host and port."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server", address))
    if mutual:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.certificate)

    with _TlsEnd(("127.0.0.1", 0), _Carrying) as end:
        end.context, end.behind = context, ("127.0.0.1", server.port)
        thread = threading.Thread(target=end.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{end.server_address[1]}"
        finally:
            end.over.set()
            end.shutdown()
            thread.join()


class _TlsEnd(socketserver.ThreadingTCPServer):
    daemon_threads = False
    context: ssl.SSLContext
    behind: tuple[str, int]

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.over = threading.Event()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A handshake that fails is what some tests want."""


class _Carrying(socketserver.BaseRequestHandler):
    server: _TlsEnd

    def handle(self) -> None:
        self.request.settimeout(5)
        with (
            self.server.context.wrap_socket(self.request, server_side=True) as near,
            socket.create_connection(self.server.behind) as far,
        ):
            near.settimeout(5)
            while not self.server.over.is_set():
                readable = [near] if near.pending() else select.select([near, far], [], [], 0.05)[0]
                for one, other in ((near, far), (far, near)):
                    if one in readable:
                        data = one.recv(65536)
                        if not data:
                            return
                        other.sendall(data)


def url_of(server: RedisServer, place: str, **query: object) -> str:
    user = server.url.removeprefix(admin(server.url)[:8]).rpartition("@")[0]
    return f"rediss://{user}{'@' if user else ''}{place}?" + "&".join(
        f"{name}={value}" for name, value in query.items()
    )


def app_at(url: str, namespace: str) -> TrackedQueue:
    made = TrackedQueue(
        url, namespace=namespace, block=0.5, enqueue_timeout=4.0, heartbeat_interval=0.2, heartbeat_ttl=2.0
    )

    @made.task(name="double")
    async def double(n: int) -> int:
        return 2 * n

    return made


async def test_everything_goes_over_tls(server: RedisServer, authority: Authority, namespace: str) -> None:
    with behind_tls(server, authority) as place:
        url = url_of(server, place, ssl_ca_certs=authority.certificate)
        async with app_at(url, namespace) as app, running_worker(app):
            double = app.tasks.get("double")
            assert double is not None
            jobs = await app.enqueue_many([double.call(n) for n in range(50)])
            assert [await job.result(10) for job in jobs] == [2 * n for n in range(50)]
            sync = await asyncio.to_thread(double.enqueue_sync, 21)
            assert await sync.result(10) == 42


@pytest.mark.parametrize("wrong", ["authority", "address", "none", "plain"])
async def test_who_is_not_trusted_gets_no_job(
    server: RedisServer, authority: Authority, namespace: str, tmp_path: Path, wrong: str
) -> None:
    other = Authority(tmp_path, "other")
    with behind_tls(server, authority, address="10.9.8.7" if wrong == "address" else "127.0.0.1") as place:
        trusted = other if wrong == "authority" else authority
        url = url_of(server, place, **({} if wrong == "none" else {"ssl_ca_certs": trusted.certificate}))
        if wrong == "plain":
            url = url.replace("rediss://", "redis://").partition("?")[0]
        async with app_at(url, namespace) as app:
            double = app.tasks.get("double")
            assert double is not None
            for enqueue in (double.enqueue, lambda n: asyncio.to_thread(double.enqueue_sync, n)):
                with pytest.raises(EnqueueUnavailableError) as found:
                    await enqueue(1)
                said = str(found.value)
                assert "\n" not in said and ("certificate" in said.lower() or wrong == "plain"), said


async def test_both_sides_know_each_other(server: RedisServer, authority: Authority, namespace: str) -> None:
    certificate, key = authority.issue("client", "127.0.0.1")
    with behind_tls(server, authority, mutual=True) as place:
        known = url_of(server, place, ssl_ca_certs=authority.certificate, ssl_certfile=certificate, ssl_keyfile=key)
        async with app_at(known, namespace) as app, running_worker(app):
            assert await (await app.enqueue("double", 4)).result(10) == 8
        async with app_at(url_of(server, place, ssl_ca_certs=authority.certificate), namespace) as app:
            with pytest.raises(EnqueueUnavailableError):
                await app.enqueue("double", 4)
