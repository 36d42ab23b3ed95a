import pytest

from flows.serving.access import is_loopback, make_token


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.0.1", "localhost", "::1", "[::1]"])
def test_addresses_of_this_machine(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", "", "127.0.0.1.example.org"])
def test_other_addresses(host: str) -> None:
    assert not is_loopback(host)


def test_tokens_differ() -> None:
    assert len({make_token() for _ in range(100)}) == 100
    assert len(make_token()) == 32
