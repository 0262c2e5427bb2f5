"""Certificates that an authority of our own issues: what they say, what they can't, and which authorities may issue."""

from __future__ import annotations

import datetime
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID as Usage
from cryptography.x509.oid import NameOID
from tls_authority import DAY, NOW

from gowork.base import issuing
from gowork.base.certificates import CertificateError, names_of, read_authorities, read_pair
from gowork.base.identities import Role
from gowork.base.issuing import DAYS_MAX, Authority, Issued, IssuingError, new_authority


def kept(folder: Path, name: str, made: Issued, mode: int = 0o600) -> tuple[Path, Path]:
    certificate, key = folder / f"{name}.pem", folder / f"{name}-key.pem"
    certificate.write_bytes(made.pem)
    key.write_bytes(made.key_pem)
    key.chmod(mode)
    return certificate, key


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    return kept(tmp_path, "ca", new_authority())


@pytest.fixture
def authority(files: tuple[Path, Path]) -> Authority:
    return Authority.read(*files)


def uris(certificate: x509.Certificate) -> list[str]:
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.UniformResourceIdentifier)


def usages(certificate: x509.Certificate) -> list[x509.ObjectIdentifier]:
    return list(certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)


# What certificates say.


def test_a_certificate_says_who_has_it_with_which_roles(authority: Authority) -> None:
    made = authority.issue("Ada L/ü", [Role.READ_ONLY, Role.ADMIN, Role.ADMIN]).certificate
    assert uris(made) == ["gowork://read-only/Ada%20L%2F%C3%BC", "gowork://admin/Ada%20L%2F%C3%BC"]
    assert [each.value for each in made.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["Ada L/ü"]


@pytest.mark.parametrize(
    ("role", "hosts", "names", "purposes"),
    [
        (Role.CLIENT, [], (), [Usage.CLIENT_AUTH]),
        (Role.WORKER, [], (), [Usage.CLIENT_AUTH]),
        (Role.WORKER, ["w.example"], ("w.example",), [Usage.SERVER_AUTH, Usage.CLIENT_AUTH]),
        (Role.LEADER, [], ("localhost", "127.0.0.1", "::1"), [Usage.SERVER_AUTH, Usage.CLIENT_AUTH]),
        (Role.LEADER, ["10.0.0.5"], ("10.0.0.5",), [Usage.SERVER_AUTH, Usage.CLIENT_AUTH]),
        (Role.PROXY, ["[::1]", "*.p.example"], ("*.p.example", "::1"), [Usage.SERVER_AUTH, Usage.CLIENT_AUTH]),
    ],
)
def test_only_those_who_are_called_have_hosts_and_may_serve(
    authority: Authority,
    role: Role,
    hosts: list[str],
    names: tuple[str, ...],
    purposes: list[x509.ObjectIdentifier],
) -> None:
    made = authority.issue("n", [role], hosts).certificate
    assert (names_of(made), usages(made)) == (names, purposes)


def test_a_certificate_can_t_issue_others_and_names_its_issuer_s_key(authority: Authority) -> None:
    made = authority.issue("n", [Role.CLIENT]).certificate
    constraints = made.extensions.get_extension_for_class(x509.BasicConstraints)
    usage = made.extensions.get_extension_for_class(x509.KeyUsage)
    assert (constraints.critical, constraints.value.ca) == (True, False)
    assert (usage.critical, usage.value.digital_signature, usage.value.key_cert_sign) == (True, True, False)
    issuer = authority.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    named = made.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value.key_identifier
    own = made.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    assert named == issuer != own
    made.verify_directly_issued_by(authority.certificate)


def test_keys_and_digests_are_strong_and_each_certificate_has_a_key_and_a_number_of_its_own(
    authority: Authority,
) -> None:
    one, two = (authority.issue("n", [Role.CLIENT]) for _ in range(2))
    assert one.key_pem != two.key_pem
    assert one.certificate.serial_number != two.certificate.serial_number
    for each in (one.certificate, authority.certificate):
        assert isinstance(each.signature_hash_algorithm, hashes.SHA256)
        key = each.public_key()
        assert isinstance(key, ec.EllipticCurvePublicKey)
        assert isinstance(key.curve, ec.SECP256R1)


def test_a_certificate_is_valid_for_its_days_and_already_a_few_minutes_ago(tmp_path: Path) -> None:
    authority = Authority.read(*kept(tmp_path, "ca", new_authority(now=NOW - DAY)))
    made = authority.issue("n", [Role.CLIENT], days=30, now=NOW).certificate
    assert made.not_valid_after_utc == (NOW + 30 * DAY).replace(microsecond=0)
    assert datetime.timedelta(0) < NOW - made.not_valid_before_utc < datetime.timedelta(minutes=10)


def test_a_certificate_is_valid_within_its_authority_s_time_alone(tmp_path: Path) -> None:
    authority = Authority.read(*kept(tmp_path, "ca", new_authority(3)))
    made = authority.issue("n", [Role.CLIENT], days=90).certificate
    assert made.not_valid_after_utc == authority.certificate.not_valid_after_utc
    assert made.not_valid_before_utc >= authority.certificate.not_valid_before_utc


def test_processes_take_what_was_issued(tmp_path: Path, files: tuple[Path, Path], authority: Authority) -> None:
    made = authority.issue("leader-1", [Role.LEADER])
    pair = read_pair(*kept(tmp_path, "leader-1", made))
    assert pair.names == ("localhost", "127.0.0.1", "::1")
    assert read_authorities(files[0]) == files[0].read_bytes()


@pytest.mark.tool("openssl")
@pytest.mark.parametrize(("role", "purpose"), [(Role.LEADER, "sslserver"), (Role.CLIENT, "sslclient")])
def test_openssl_trusts_what_was_issued(
    tmp_path: Path, files: tuple[Path, Path], authority: Authority, role: Role, purpose: str
) -> None:
    certificate, _ = kept(tmp_path, "n", authority.issue("n", [role]))
    told = subprocess.run(
        ["openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", str(files[0]), str(certificate)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (told.returncode, told.stdout) == (0, f"{certificate}: OK\n"), told.stderr


# What they can't say.


@pytest.mark.parametrize("name", ["", " ", "a ", "a\nb", "a\x00", "\udcff", ".", "..", "ü" * 33])
def test_a_name_that_nobody_could_read_or_that_is_too_long_is_refused(authority: Authority, name: str) -> None:
    with pytest.raises(IssuingError):
        authority.issue(name, [Role.CLIENT])


def test_the_longest_name_is_taken(authority: Authority) -> None:
    assert uris(authority.issue("ü" * 32, [Role.CLIENT]).certificate) == ["gowork://client/" + "%C3%BC" * 32]


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("10.0.0.5:50051", "without a port"),
        ("https://leader", "without a port and a scheme"),
        ("a,b", "no host name"),
        ("", "no host name"),
        ("a..b", "no host name"),
        ("-a", "no host name"),
        ("10.0.0.256", "no host name"),
        ("a." * 127 + "b", "no host name"),
        ("bücher.example", "xn--"),
        ("0.0.0.0", "addresses at which others call"),
        ("[::]", "addresses at which others call"),
        ("fe80::1%eth0", "no zones"),
    ],
)
def test_a_host_that_nobody_could_call_is_refused(authority: Authority, host: str, words: str) -> None:
    with pytest.raises(IssuingError, match=words):
        authority.issue("n", [Role.LEADER], [host])


def test_hosts_of_who_is_not_called_are_refused(authority: Authority) -> None:
    with pytest.raises(IssuingError, match="nobody calls"):
        authority.issue("n", [Role.CLIENT, Role.ADMIN], ["a.example"])


def test_hosts_and_days_are_bounded(authority: Authority) -> None:
    with pytest.raises(IssuingError, match="101 hosts are more than 100"):
        authority.issue("n", [Role.LEADER], [f"h{number}" for number in range(101)])
    for days in (0, DAYS_MAX + 1):
        with pytest.raises(IssuingError, match="not 1 to 397"):
            authority.issue("n", [Role.CLIENT], days=days)


# Who may issue.


def test_of_several_authorities_in_a_file_the_key_s_own_issues(tmp_path: Path, files: tuple[Path, Path]) -> None:
    fresh = new_authority()
    certificate, key = kept(tmp_path, "fresh", fresh)
    certificate.write_bytes(files[0].read_bytes() + fresh.pem)
    assert Authority.read(certificate, key).issue("n", [Role.CLIENT]).certificate.issuer == fresh.certificate.subject


def test_a_key_of_another_authority_is_refused(tmp_path: Path, files: tuple[Path, Path]) -> None:
    _, key = kept(tmp_path, "other", new_authority())
    with pytest.raises(CertificateError, match=r"other-key\.pem is the key of another authority than .*ca\.pem"):
        Authority.read(files[0], key)


def test_a_missing_key_is_named(tmp_path: Path, files: tuple[Path, Path]) -> None:
    with pytest.raises(CertificateError, match=r"none\.pem can't be read: No such file"):
        Authority.read(files[0], tmp_path / "none.pem")


def test_an_authority_out_of_its_time_is_refused(files: tuple[Path, Path]) -> None:
    with pytest.raises(CertificateError, match="the authority expired at 20"):
        Authority.read(*files, now=NOW + 3651 * DAY)
    with pytest.raises(CertificateError, match="the authority is not valid before 20"):
        Authority.read(*files, now=NOW - DAY)


def test_who_was_issued_a_certificate_can_t_issue_others(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(CertificateError, match="may not issue others"):
        Authority.read(*kept(tmp_path, "n", authority.issue("n", [Role.CLIENT])))


def test_a_key_that_others_may_read_is_refused(tmp_path: Path) -> None:
    files = kept(tmp_path, "open", new_authority(), mode=0o644)
    with pytest.raises(CertificateError, match=r"has mode 0644, .*: chmod 600 "):
        Authority.read(*files)


def test_an_authority_with_a_weak_key_is_refused_and_a_strong_one_of_another_kind_is_not(tmp_path: Path) -> None:
    def of_rsa(bits: int) -> Issued:
        key = rsa.generate_private_key(65537, bits)
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"of {bits} bits")])
        made = (
            x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), NOW - DAY, NOW + DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(key, hashes.SHA256())
        )
        pem, form, nothing = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        return Issued(made, made.public_bytes(pem), key.private_bytes(pem, form, nothing))

    with pytest.raises(CertificateError, match="the key is not on P-256"):
        Authority.read(*kept(tmp_path, "weak", of_rsa(1024)))
    strong = Authority.read(*kept(tmp_path, "strong", of_rsa(2048)))
    strong.issue("n", [Role.CLIENT]).certificate.verify_directly_issued_by(strong.certificate)


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP256K1()), ed25519.Ed25519PrivateKey.generate()])
def test_an_authority_with_a_key_that_grpc_does_not_take_is_refused(tmp_path: Path, key: Any) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "other")])
    digest = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), NOW - DAY, NOW + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, digest)
    )
    pem, form, nothing = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    issued = Issued(made, made.public_bytes(pem), key.private_bytes(pem, form, nothing))
    with pytest.raises(CertificateError, match="the key is not on P-256, P-384 or P-521"):
        Authority.read(*kept(tmp_path, "other", issued))


def test_an_authority_issues_certificates_and_no_authorities() -> None:
    constraints = new_authority().certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    assert constraints.critical
    assert constraints.value == x509.BasicConstraints(ca=True, path_length=0)


def test_two_authorities_of_a_day_have_two_names() -> None:
    assert new_authority().certificate.subject != new_authority().certificate.subject


def test_a_name_is_the_name_of_one_file() -> None:
    assert issuing.encoded("../a b/c") == "..%2Fa%20b%2Fc"
