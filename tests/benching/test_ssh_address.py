"""Where a device is reached: what is an address, and the command that comes of it."""

import subprocess
from pathlib import Path

import pytest
from pydantic import ValidationError

from edgekd.benching.devices.ssh import Ssh
from edgekd.benching.remote import program
from edgekd.benching.remote.address import Address, parse
from edgekd.core.errors import UsageError

CANARY = "edgekd-canary"
PAYLOADS = (
    f"; touch {CANARY}",
    f"$(touch {CANARY})",
    f"`touch {CANARY}`",
    f"| touch {CANARY}",
    f"&& touch {CANARY}",
    f"|| touch {CANARY}",
    f"\ntouch {CANARY}\n",
    f"\rtouch {CANARY}",
    f"-oProxyCommand=touch {CANARY}",
    f"--exec=touch {CANARY}",
    f"' ; touch {CANARY} ; '",
    f'" ; touch {CANARY} ; "',
    f"> {CANARY}",
    f"x >{CANARY} <y",
    f"${{IFS}}touch${{IFS}}{CANARY}",
    f"%n%h%p; touch {CANARY}",
    f"\\'; touch {CANARY}; \\'",
    f"!!; touch {CANARY}",
    f"{{touch,{CANARY}}}",
    f"\x00; touch {CANARY}",
    f"\x1b]0;touch {CANARY}\x07",
    f"\u202etouch {CANARY}",
    f"__import__('os').system('touch {CANARY}')",
    f"é\U0001f600; touch {CANARY}",
    f"\udcff; touch {CANARY}",
)
WRAPPERS = ("{}", "a{}", "{}b", "../{}", "x/{}", "-{}", "host{}", "@{}")
HOSTILE = tuple(wrapper.format(payload) for wrapper in WRAPPERS for payload in PAYLOADS)


def test_there_are_two_hundred_hostile_strings() -> None:
    """None of them twice."""
    assert len(set(HOSTILE)) == 200


@pytest.mark.parametrize(
    ("text", "host", "user", "port"),
    [
        ("pi5", "pi5", None, None),
        ("pi@pi5.local", "pi5.local", "pi", None),
        ("pi@pi5:2222", "pi5", "pi", 2222),
        ("192.168.1.7:22", "192.168.1.7", None, 22),
        ("fe80::1", "fe80::1", None, None),
        ("pi@[fe80::1]:2222", "fe80::1", "pi", 2222),
    ],
)
def test_an_address_is_read_and_shown_as_it_is_written(text: str, host: str, user: str | None, port: int | None) -> None:
    """User and port may be left out; an IPv6 address with a port stands in brackets."""
    found = parse(text)
    assert (found.host, found.user, found.port) == (host, user, port)
    assert str(found) == text


@pytest.mark.parametrize(
    "text", ["", "@", "pi@", "-pi5", "pi5-", "pi@-x", "pi5:", "pi5:0", "pi5:65536", "a b", "pi5:22:33x", "[::1"]
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """Before any process is started; a host that begins with a dash would be an option."""
    with pytest.raises(UsageError, match="not the address of a device"):
        parse(text)


def test_hostile_strings_reach_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """As host, user, interpreter or lease each is refused before anything is run."""
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a process was started"))
    for text in HOSTILE:
        with pytest.raises(UsageError):
            parse(text)
        for options in ({"host": text}, *({"host": "pi5", field: text} for field in ("user", "python", "lease", "name"))):
            with pytest.raises(ValidationError):
                Ssh(**options)


def test_the_command_offers_nothing_and_asks_nobody() -> None:
    """No forwarding of any kind, no questions, no unknown keys, no connection shared with others; the host comes after `--`."""
    address = Address(host="pi5", user="pi", port=2222, key=Path("/k/id key"), config=Path("/c"))
    command = address.command("the line", known_hosts=(Path("/home/a b/100%"),))
    options = {command[i + 1] for i, word in enumerate(command) if word == "-o"}
    assert {
        "BatchMode=yes",
        "StrictHostKeyChecking=yes",
        "PasswordAuthentication=no",
        "KbdInteractiveAuthentication=no",
        "ForwardAgent=no",
        "ForwardX11=no",
        "ClearAllForwardings=yes",
        "PermitLocalCommand=no",
        "ControlMaster=no",
        'UserKnownHostsFile="/home/a b/100%%"',
    } <= options
    assert command[:4] == ["ssh", "-T", "-x", "-a"]
    assert command[-3:] == ["--", "pi5", "the line"]
    assert command[command.index("-i") + 1] == "/k/id key"


def test_a_file_of_keys_that_ssh_cannot_name_is_refused() -> None:
    """A quote in its path would end the option."""
    with pytest.raises(UsageError, match="cannot read a file with this name"):
        Address(host="pi5").command("x", known_hosts=(Path('/a"b'),))


def test_the_line_for_the_devices_shell_is_constant() -> None:
    """It has nothing in it that a shell would act on outside of one pair of single quotes, and 64 hexadecimal digits."""
    line = program.line("python3")
    before, quoted, after = line.split("'")
    assert before == "exec python3 -I -c "
    assert after == f" {program.digest()}"
    assert not set("$`\\!\n") & set(quoted)
    assert line == program.line("python3")
