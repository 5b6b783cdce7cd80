"""Secrets reach nothing that is printed, recorded, tagged or packed: one rule for all of it."""

import json
import string
from collections.abc import Callable
from functools import partial
from pathlib import Path
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from workspaces import ROOT, new_repository

import generative.serving
from runrecord.project import Project
from runrecord.provenance.environment import Origin, collect_origin
from runrecord.record.events import (
    Dataset,
    Event,
    Logged,
    ModelEvaluated,
    RunEnded,
    RunStarted,
    as_json,
)
from runrecord.record.writer import without_secrets
from runrecord.safety.secrets import (
    bytes_hold_secret,
    holds_secret,
    is_secret_kind,
    redact,
    redact_words,
)
from runrecord.safety.text import reason, shown

ENVIRONMENT = {
    "MLFLOW_TRACKING_PASSWORD": "correct horse",
    "AWS_SECRET_ACCESS_KEY": "abc/def",
    "API_TOKEN": "tok-123",
    "HOME": "/home/somebody",
    "KEYBOARD": "qwerty",
    "EMPTY_TOKEN": "",
    "SHORT_KEY": "a",
}
FEW = settings(deadline=None, derandomize=True, max_examples=60)


NESTED = {"FIRST_TOKEN": "hunter", "SECOND_TOKEN": "hunter2-and-more"}
LINES = {"SSH_PRIVATE_KEY": "first-line-of-a-key\n  second-line-of-a-key\nend"}
ADDRESS = {"DATABASE_URL": "postgresql://me:hunter%2F22@host/db", "OTHER": "http://host/"}


@pytest.mark.parametrize(
    ("environment", "text", "expected"),
    [
        (ENVIRONMENT, "at http://me:pass@word@host/x", "at http://***@host/x"),
        (ENVIRONMENT, "401 for me with correct horse", "401 for me with ***"),
        (ENVIRONMENT, "key abc/def, tok-123", "key ***, ***"),
        (ENVIRONMENT, "abc%2Fdef and abc%2fdef", "*** and ***"),
        (ENVIRONMENT, "qwerty in /home/somebody", "qwerty in /home/somebody"),
        (ENVIRONMENT, "https://host/a@b is a path", "https://host/a@b is a path"),
        (ADDRESS, "hunter/22, hunter%2f22 at host", "***, *** at host"),
        ({"X": "postgresql://me:me@host/db"}, "me at me", "me at me"),
        (LINES, "+  second-line-of-a-key\n+end", "+  ***\n+end"),
        (NESTED, "by hunter2-and-more, hunter", "by ***, ***"),
    ],
)
def test_what_is_struck_out(environment: dict[str, str], text: str, expected: str) -> None:
    assert redact(text, environment) == expected
    assert holds_secret(text, environment) is (text != expected)


def letters(
    begin: str, least: int, most: int, alphabet: str = string.ascii_letters + string.digits
) -> st.SearchStrategy[str]:
    """`begin` and a number of characters; the last of them is a digit, as most tokens have one."""
    return st.text(alphabet, min_size=least, max_size=most).map(lambda rest: f"{begin}{rest}0")


BASE64 = string.ascii_letters + string.digits + "+/"
UPPER = string.ascii_uppercase + "234567"
WORD = string.ascii_letters + string.digits + "_-"
PEM = "-----BEGIN {0}PRIVATE KEY-----\n{1}\n-----END {0}PRIVATE KEY-----"
TOKENS: dict[str, st.SearchStrategy[str]] = {
    **{f"GitHub {one}": letters(f"gh{one}_", 35, 35) for one in "oprsu"},
    "GitHub, fine-grained": letters("github_pat_", 60, 82),
    "OpenAI": letters("sk-", 47, 47),
    "OpenAI, of a project": letters("sk-proj-", 60, 150, WORD),
    "Anthropic": letters("sk-ant-api03-", 80, 100, WORD),
    "Hugging Face": letters("hf_", 33, 33, string.ascii_letters),
    "AWS, id": letters("AKIA", 16, 16, UPPER),
    "Slack": letters("xoxb-", 40, 60, string.digits + "-"),
    "Google": letters("AIza", 34, 34, WORD),
    "GitLab": letters("glpat-", 19, 19, WORD),
    "PyPI": letters("pypi-AgEIcHlwaS5vcmc", 70, 150, WORD),
    "npm": letters("npm_", 35, 35),
    "Telegram": letters("123456789:AA", 32, 32, WORD),
    "Twilio": letters("SK", 31, 31, string.digits + "abcdef"),
    "Stripe": letters("sk_live_", 20, 30),
    "JWT": st.tuples(*[letters("eyJ", 10, 60, WORD)] * 2, letters("", 20, 43, WORD)).map(".".join),
    **{
        f"key, {kind}": letters("", 40, 64, BASE64).map(partial(PEM.format, kind))
        for kind in ("", "RSA ", "EC ", "OPENSSH ", "ENCRYPTED ")
    },
}
"""By form: struck out wherever they stand."""

PASSWORDS = st.text(string.ascii_letters + string.digits + "!@-._~", min_size=5, max_size=20).map(
    lambda text: f"Zq{text}"
)
NO_SIGNS = dict.fromkeys(map(ord, "!@-._~%"), "+")
PLACES: dict[str, Callable[[str], str]] = {
    "login": lambda it: f"postgresql://me:{quote(it)}@host/db",
    "login without a user": lambda it: f"redis://:{quote(it)}@host:6379/0",
    "login, not encoded": lambda it: f"http://me:{it}@host/x",
    "token for a login": lambda it: f"https://{quote(it)}012345@host/x",
    "bearer": lambda it: f"Authorization: Bearer {it}",
    "basic, as JSON": lambda it: json.dumps({"Authorization": f"Basic {it}"}),
    "ODBC": lambda it: f"Server=db;User Id=me;Password={it};Database=x",
    "libpq": lambda it: f"host=db password={it} dbname=x",
    "query": lambda it: f"https://host/x?user=me&password={quote(it)}&y=1",
    "access token in a query": lambda it: f"https://host/x?access_token={quote(it)}",
    "AWS, with its id": lambda it: f"AKIA{'Q' * 16}\nsecret: {it.translate(NO_SIGNS):/>40}",
    "AWS, by name": lambda it: f"aws_secret_access_key = {it.translate(NO_SIGNS):/>40}",
    "netrc": lambda it: f"machine host login me password {it}",
    "written out": lambda it: f'api_key = "{it}012345"',
    "written out, by a program": lambda it: f'os.environ["MY_API_KEY"] = "{it}0123456789"',
    "a token that is written out": lambda it: f'HF_TOKEN = "{it}0123456789"',
    "curl": lambda it: f"curl -s -u me:{it} https://host/x",
    "YAML": lambda it: f"db:\n  password: {it}012345\n",
    "a shell's": lambda it: f"A=1\nexport MY_TOKEN={it}012345\n",
}
"""A password of any form, struck out by where it stands."""

ENCODINGS: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "JSON": lambda text: json.dumps({"a": f"\n{text}\t"}),
    "JSON with its letters": lambda text: json.dumps([text], ensure_ascii=False),
    "JSON in JSON": lambda text: json.dumps(json.dumps(text)),
    "part of an address": lambda text: quote(f"{text}&b=1"),
    "percent-encoded": lambda text: quote(text, safe=""),
    "a form": quote_plus,
}
ANYTHING = st.text(max_size=12)


@pytest.mark.parametrize("kind", TOKENS)
@given(data=st.data(), before=ANYTHING, after=ANYTHING, encoding=st.sampled_from([*ENCODINGS]))
@settings(FEW, max_examples=15)
def test_of_a_token_nothing_is_left_wherever_it_stands(
    kind: str, data: st.DataObject, before: str, after: str, encoding: str
) -> None:
    encode = ENCODINGS[encoding]
    secret = data.draw(TOKENS[kind])
    text = encode(f"{before} {secret} {after}")
    found = redact(text, {})
    body = max(secret.split("\n"), key=len)
    for form in (body, quote(body, safe=""), quote_plus(body)):
        assert form not in found
    assert redact(found, {}) == found


@pytest.mark.parametrize("place", PLACES)
@given(secret=PASSWORDS, after=ANYTHING)
@settings(FEW, max_examples=15)
@example(secret="Zqp%40ss", after="")
def test_of_a_password_nothing_is_left_where_one_is_expected(
    place: str, secret: str, after: str
) -> None:
    assume("@" not in secret or "login" in place)
    text = PLACES[place](secret)
    secret = secret.translate(NO_SIGNS) if "AWS" in place else secret
    for encode in ENCODINGS.values():
        found = redact(encode(f"{text}\n{after}"), {})
        for form in (secret, quote(secret, safe="")):
            assert form not in found, (encode, text, found)
        assert redact(found, {}) == found


@given(
    secret=st.text(min_size=8, max_size=30),
    before=ANYTHING,
    after=ANYTHING,
    encoding=st.sampled_from([*ENCODINGS]),
)
@settings(FEW, max_examples=150)
@example(secret='a"b\\c/d%e é🙂', before="x", after="y", encoding="JSON in JSON")
def test_of_a_variables_value_nothing_is_left_however_it_is_encoded(
    secret: str, before: str, after: str, encoding: str
) -> None:
    assume(len(secret.splitlines()) == 1 and secret == secret.strip() and len(set(secret)) > 3)
    assume(not secret.replace(".", "").isdecimal() and not Path(secret).exists())
    environment = {"MY_API_KEY": secret}
    found = redact(ENCODINGS[encoding](f"{before}{secret}{after}"), environment)
    for encode in ENCODINGS.values():
        inside = encode(secret).strip('[]"{}')
        assert inside.removeprefix('a": "\\n').removesuffix("\\t") not in found
    assert redact(found, environment) == found


@given(text=st.text())
@settings(FEW)
def test_text_without_a_secret_is_unchanged(text: str) -> None:
    assume("://" not in text)
    assert redact(text, {}) == text


@pytest.mark.parametrize(
    "text",
    [
        *("https://me@host/x", "ssh://git@host:22/x", "ssh://runner-12345@host/x"),
        *("git@host:x.git",),
        *("https://host:8080/a@b", "http://[::1]:8080/a@b", "https://registry/@scope/pkg@1.2"),
        *("password=args.password", "connect(host=h, password=pw, user=u)", "password: str"),
        *('f"https://{user}:{password}@{host}"', "https://${USER}:${PASS}@host", "a//b:c@d"),
        *('headers={"Authorization": "Bearer " + token}', 'Authorization: f"Bearer {token}"'),
        *("task-20261123-015900-1a2b3c", "mask-20261123-015900-1a2b3c", "Bearer of good news"),
        *("-----BEGIN CERTIFICATE-----", '{"a": "http://h", "b": "me@x"}', "sha256: " + "0" * 64),
        *("def f(a: int) -> None: ...  # see http://host/", 'pad_token="[PAD]12345"'),
        *("tok-124", ""),
    ],
)
def test_ordinary_text_is_none(text: str) -> None:
    assert not holds_secret(text, ENVIRONMENT)


def test_no_file_of_this_repository_that_is_code_or_docs_holds_one() -> None:
    """A rule that saw secrets in ordinary code would leave out every change of it."""
    files = [path for part in ("src", "stages", "docs") for path in (ROOT / part).rglob("*.*")]
    files += [ROOT / name for name in ("README.md", "dvc.yaml", "params.yaml", "pyproject.toml")]
    texts = [path for path in files if path.suffix in (".py", ".md", ".yaml", ".toml", ".html")]
    assert len(texts) > 100
    assert [path for path in texts if bytes_hold_secret(path.read_bytes())] == []


SECRET = {
    True: [
        *("DB_PASSWORD", "db_passwd", "HF_TOKEN", "CLIENT_SECRET", "KEY", "OPENAI_API_KEY"),
        *("GOOGLE_APPLICATION_CREDENTIALS", "PGPASSWORD", "SSHPASS", "MYSQL_PWD", "GITHUB_PAT"),
        *("hfToken", "DB_PASS", "KEY_PASSPHRASE", "NPM_CONFIG__AUTH", "GITHUBTOKEN"),
    ],
    False: [
        *("KEYBOARD", "MONKEY", "KEYS", "PATH", "TOKENIZERS_PARALLELISM", "PWD", "OLDPWD"),
        *("GIT_CONFIG_KEY_0", "SSH_PUBLIC_KEY", "AUTHOR", "COMPASS", "PAD_TOKEN"),
    ],
}


@pytest.mark.parametrize(("name", "secret"), [(one, of) for of in SECRET for one in SECRET[of]])
def test_a_variables_name_says_whether_it_is_secret(name: str, secret: bool) -> None:
    said = redact("it is s3cret!", {name: "s3cret"})
    assert said == ("it is ***!" if secret else "it is s3cret!")


@pytest.mark.parametrize(
    "value", ["true", "No", "NULL", "12345678", "1e-5", "abc", "****", str(Path(__file__)), "/tmp"]
)
def test_switches_numbers_and_paths_are_no_secrets(value: str) -> None:
    text = f"lr: {value} and more"
    assert redact(text, {"MY_TOKEN": value}) == text


TOKEN = {
    False: [
        *("stop_token", "model.stop_token", "bos_token", "decoder_start_token", "padToken"),
        *("fim_prefix_token", "mask_token_id", "token_type", "token_mixer", "pad_token_eos_token"),
        *("max_tokens", "tokenizer", "additional_special_tokens"),
    ],
    True: [
        *("token", "access_token", "app.token", "id_token", "github_token_write", "tokenSecret"),
        *("stop_token_password", "token_type_secret", "restart_token", "backend_token", "token_id"),
    ],
}
"""Names of a language model's own tokens, and of tokens that are secrets."""


@pytest.mark.parametrize(("name", "secret"), [(one, of) for of in TOKEN for one in TOKEN[of]])
def test_a_tokens_name_says_whether_it_is_secret(name: str, secret: bool) -> None:
    said = "***" if secret else "geheim"
    assert params_without_secrets({name: "geheim"}) == {name: said}
    assert [*redact_words([f"--{name}", "geheim"], {})] == [f"--{name}", said]


def params_without_secrets(params: dict[str, object]) -> dict[str, object]:
    start = RunStarted("run-1", "train", 1, "host", params, {})
    return dict(without_secrets(start, {}).params)


def test_the_environment_of_the_process_is_what_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TEST_TOKEN", "tok-98765")
    assert holds_secret("at tok-98765")
    assert redact("at tok-98765") == "at ***"
    assert reason(OSError("tok-98765 was\nrefused")) == "*** was"
    assert shown("by tok-98765\nand \x1b[2J") == "by ***\nand \ufffd[2J"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("train.py --password hunter22 --lr 0.1", "train.py --password *** --lr 0.1"),
        ("train.py --hf-token=abcdefgh", "train.py --hf-token=***"),
        ("curl -H tok-123", "curl -H ***"),
        ("x --pad-token [PAD] --max-token 512", "x --pad-token [PAD] --max-token 512"),
        ("x db.password=geheim +x.api_key=geheim", "x db.password=*** +x.api_key=***"),
        ("train.py --api-key --verbose", "train.py --api-key --verbose"),
        ("train.py --secret $SECRET", "train.py --secret $SECRET"),
    ],
)
def test_of_a_command_what_an_option_says_is_secret_is_struck_out(
    words: str, expected: str
) -> None:
    assert " ".join(redact_words(words.split(), ENVIRONMENT)) == expected


GITHUB = f"ghp_{'a1' * 18}"
HELD = f"by {GITHUB} and tok-98765"
EVENTS: dict[str, Event] = {
    "start": RunStarted(
        *("run-1", "train", 1, "host", {"a": HELD, "b": [{"c": HELD}], "db.password": "hunter"}),
        {"note": HELD, "git.dirty": "true"},
        Dataset("mnist", "d", f"https://me:{GITHUB}@host/x"),
        command=("train.py", "--token", "abcdefgh", HELD),
    ),
    "tags": Logged(1, 0, {"loss": 1.0}, tags={"note": HELD}),
    "evaluation": ModelEvaluated(1, "vae", "0" * 64, {"MSE": 1.0}, config={"a": {"b": [HELD]}}),
    "end": RunEnded(1, "FAILED", HELD, f"x\n{HELD}\n", (f"a (was 1, is {HELD})",)),
}


@pytest.mark.parametrize("kind", EVENTS)
def test_no_event_holds_one(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TEST_TOKEN", "tok-98765")
    event = without_secrets(EVENTS[kind])
    written = as_json(event).decode()
    for secret in (GITHUB, "tok-98765", "abcdefgh", "hunter"):
        assert secret not in written
    assert "***" in written
    assert without_secrets(event) == event
    if isinstance(event, RunStarted):
        assert event.tags["git.dirty"] == "true"


FILES = [
    *(".env", ".env.local", "prod.env", "a/.envrc", "server.key", "id_rsa", "ID_RSA", ".netrc"),
    *("credentials.json", "credentials", "client_secret_1.json", "secrets.yaml", "kubeconfig.yml"),
    *("service-account.json", ".aws/config", "home/.ssh/config", ".docker/config.json"),
    *(".dvc/config.local", "kaggle.json", "token.json", "a.keystore"),
]
OTHERS = [
    *(".env.example", "secrets.py", "id_rsa.pub", "environment.yml", "keys.py", "monkey.txt"),
    *("config.json", "params.yaml", "src/key/train.py", "tokens.txt", "env.py"),
]


def test_files_are_secret_by_their_kind() -> None:
    assert [name for name in FILES if not is_secret_kind(name)] == []
    assert [name for name in OTHERS if is_secret_kind(name)] == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return new_repository(tmp_path / "repository")


def origin(repository: Path) -> Origin:
    return collect_origin(repository, "train", repository, Project(code=("src",)), {})


DVC_SETTINGS = [
    *("password = geheim", "secret_access_key = geheim", "sse_customer_key = geheim"),
    *("sas_token = geheim", "oss_key_secret = geheim", "url = ssh://me:geheim@host/storage"),
    "connection_string = AccountName=me;AccountKey=geheim;EndpointSuffix=host",
]
"""What people set by `dvc remote modify` and mean to set with `--local`."""


@pytest.mark.parametrize("setting", DVC_SETTINGS)
def test_dvcs_settings_that_set_a_password_hold_a_secret(setting: str) -> None:
    assert bytes_hold_secret(f"['remote \"a\"']\n    {setting}\n".encode(), ".dvc/config")


def test_other_settings_of_dvc_are_recorded() -> None:
    plain = "[core]\n remote = a\n['remote \"a\"']\n url = ssh://me@host/x\n user = me1\n"
    plain += " keyfile = /home/me/.ssh/id_rsa1\n ask_password = true\n timeout = 30\n"
    assert not bytes_hold_secret(plain.encode(), ".dvc/config")
    assert not bytes_hold_secret(b"    password = geheim\n", "src/code.py"), "a program's name"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("src/new one.py", f"URL = 'https://{GITHUB}@host/x'\n".encode()),
        ("src/keys.bin", b"\0\1\2" + GITHUB.encode() + b"\0"),
        ("src/wide.txt", GITHUB.encode("utf-16")),
        ("src/settings.ini", b"[db]\npassword = geheim\n"),
    ],
)
def test_a_change_that_holds_a_secret_is_left_out_and_its_file_named(
    repository: Path, name: str, content: bytes
) -> None:
    (repository / name).write_bytes(content)
    (repository / "src/other.py").write_text("TWO = 2\n")
    found = origin(repository)
    assert found.patch == b""
    assert found.tags["git.patch"] == f"left out: {name} holds a password or a token"
    assert "holds a password or a token" in found.trouble
    assert "other.py" not in found.trouble


def test_code_that_is_packed_with_a_model_leaves_out_what_a_change_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "generative"
    files = {
        "models/ae.py": b"ONE = 1\n",
        "models/.env": b"A=b\n",
        "models/x.py": f"URL = 'https://{GITHUB}@host'\n".encode(),
        "__pycache__/ae.pyc": b"x",
    }
    for name, content in files.items():
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_bytes(content)
    monkeypatch.setattr(generative.serving, "_PACKAGE", package)
    packed = generative.serving._pack_code(tmp_path / "packed")
    assert [path.name for path in packed.rglob("*.*")] == ["ae.py"]
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[1] for line in said] == [
        "generative/models/.env",
        "generative/models/x.py",
    ]
