"""What is secret: one rule for all that leaves, be it a patch, a tag, a text or a message.

By the environment (values of variables whose names say so), by form (tokens, keys and logins as
their makers write them), and of files by their kind. Kept short on purpose: what is ordinary
text must stay as it is, since a change that holds a secret is not recorded at all.
"""

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from functools import cache, lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, unquote_plus

HELD, OF_A_KIND = "holds a password or a token", "is of a kind that keeps passwords"
"""Why a file is left out."""

OWN_TAGS = ("git.commit", "git.dirty", "dvc.stage", "lock.sha256", "python", "platform")
"""What the engine finds out and nobody can make secret: a run has them, whatever is in them."""

STRUCK = "***"  # what stands in the place of a secret
_SHORTEST = 4  # characters; a shorter value would black out ordinary words
_PLAIN = {
    *("true", "false", "yes", "no", "on", "off", "none", "null", "auto", "default"),
    *("enabled", "disabled"),
}

# The words of a name in lower case, with `_` between and around them.
_SAID = r"(password|passwd|passphrase)s?_|_(secrets?|credentials?)_|(api|access|secret|private)key_"
_SAID += r"|_[a-z]*token_"
_SAID += r"|_(api|access|account|auth|deploy|encryption|master|private|secret|service|signing)_key_"
_SAID += r"|_sse_customer_key_"
_SAID_OF_TEXT = re.compile(_SAID)
_SAID_OF_VARIABLE = re.compile(
    rf"{_SAID}|(?<!_public)(?<!_git_config)_key_|[a-z]_(pass|pwd|auth|pat|cookie)_$|_sshpass_"
)

_OF_A_VOCABULARY = re.compile(
    r"_(pad|unk|oov|cls|mask|sep|separator|special|blank|newline|placeholder|trigger|lang|language"
    r"|prefix|middle|suffix|start|begin|end|stop|bos|eos|sos|boi|eoi|eod|eom|eot)_token(?=_)"
    r"|_token(?=_(type|level|mixer|pool|pooling|merging|embedding|embeddings)_)"
)
"""What language models call their own tokens, and what is done to them: no secrets."""

_LOGIN = re.compile(r"[a-z][\w+.-]*://([^\s/@:]*):([^\s/]+)@", re.IGNORECASE)
"""An address with a user and a password, as a variable's value."""
_WORD = re.compile(r"[^\s\"<>]+")
_NOT_ENCODED = "!#$&'()*+,/:;=?@[]^`{|}"


# `(?P<keep>…)` stays; the rest is struck out. Quotes and slashes may be escaped, as JSON has them.
_SLASHES, _QUOTE = r"(?:\\*/){2}", r"\\*[\"']"
_NO_TEMPLATE = r"(?![{<*]|\$[{(A-Z]|%[s(])"  # a program's text that stands for a value
_EDGE = r"(?:(?<![A-Za-z0-9])|(?<=\\[bfnrt])|(?<=\\u[0-9A-Fa-f]{4}))"
_START = r"(?:\b|(?<=\\[nrt]))"  # of a word, also behind an escaped end of a line
_USER = r"[^\s/@:\"'<>\[\]?#\\{}$*]"
_VALUE = r"(?:[^\s\"'\\,;&*]|\\+(?![\"'bfnrtu\\]))"
_WITH_DIGIT = rf"(?={_VALUE}{{0,999}}?\d)"
_PASSWORD = r"(?:password|passwd|passphrase|pwd)"  # noqa: S105  (a pattern)
_NAMED = (
    rf"(?:{_PASSWORD}|secret|(?:api|access|secret|private|account)[_-]?key"
    r"|(?:access|auth|api|bearer|refresh|session)[_-]?token)"
)
_FORMS = [
    re.compile(form)
    for form in (
        # a login in an address: with a password, or a token alone
        rf"(?i)(?P<keep>:{_SLASHES}){_USER}{{0,99}}:{_NO_TEMPLATE}"
        r"(?!\d{1,5}(?:[/?#\s\"']|$))(?:[^\s/\"'<>]{0,999}|[^\s\"'<>@]{0,999})(?=@)",
        rf"(?i)(?<!ssh)(?<!sftp)(?P<keep>:{_SLASHES})"
        rf"(?:(?={_USER}{{0,99}}?\d){_USER}{{8,999}}|{_USER}{{20,999}})(?=@)",
        # tokens, by how their makers begin them
        r"gh[oprsu]_[A-Za-z0-9]{20,}|github_pat_\w{20,}",
        rf"{_EDGE}[sr]k-(?=[\w-]*\d)[\w-]{{20,}}",
        r"(?:hf|api_org)_[A-Za-z0-9]{30,}|npm_[A-Za-z0-9]{30,}|gsk_[A-Za-z0-9]{30,}",
        r"(?:sk|rk|pk)_(?:live|test)_[A-Za-z0-9]{10,}|SG\.[\w-]{16,}\.[\w-]{16,}",
        r"(?P<keep>(?:A3T[A-Z0-9]|AKIA|ASIA)[A-Z0-9]{16}[\s\S]{1,99}?(?<![\w/+]))"
        r"(?:[A-Za-z0-9+]|\\*/){40,}",
        r"(?:A3T[A-Z0-9]|AKIA|ASIA)[A-Z0-9]{16}",
        rf"(?i)(?P<keep>aws_?secret(?:_?access)?_?key{_QUOTE}?[\s=:]*(?:{_QUOTE})?)"
        r"(?:[a-z0-9+]|\\*/){40,}",
        r"xox[abeoprs]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,}",
        r"(?P<keep>hooks\.slack\.com\\*/services\\*/)[\w/\\]{20,}",
        r"AIza[\w-]{30,}|ya29\.[\w-]{20,}|GOCSPX-[\w-]{20,}",
        r"gl[a-z]{2,5}-[\w-]{20,}|pypi-[\w-]{32,}|dckr_pat_[\w-]{20,}|dop_v1_[a-f0-9]{40,}",
        r"dapi[a-f0-9]{32}|hvs\.[\w-]{24,}|ATATT3[\w=-]{20,}|shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}",
        r"eyJ[\w-]{8,500}\.eyJ[\w-]{8,5000}\.[\w-]*|AGE-SECRET-KEY-1[A-Z0-9]{50,}",
        rf"{_EDGE}(?:SK[0-9a-f]{{32}}|\d{{8,10}}:AA[\w-]{{33,}})",
        r"-----BEGIN[A-Z0-9 ]* ?PRIVATE KEY[A-Z ]*-----"
        r"(?:[\s\S]*?-----END[A-Z0-9 ]*KEY[A-Z ]*-----|[\w+/=\s\\-]*)",
        # headers
        rf"(?i)(?P<keep>authorization(?:{_QUOTE}|[\s:=])*(?:bearer|basic|token|digest)\s+)"
        rf"{_NO_TEMPLATE}{_VALUE}{{4,}}",
        rf"(?i)(?P<keep>{_START}bearer\s+){_NO_TEMPLATE}{_WITH_DIGIT}[\w.~+/=-]{{16,}}",
        # `password=…` among other settings: in connection strings and addresses' queries
        rf"(?i)(?P<keep>[;?&]\s*(?:{_NAMED}|token|sig|key)\s*=)"
        rf"{_NO_TEMPLATE}{_VALUE}{{{_SHORTEST},}}",
        rf"(?i)(?P<keep>(?<![\w(,])[\w ]{{2,20}}=[^\s,;()&\"']+[ ]+{_PASSWORD}=)"
        rf"{_NO_TEMPLATE}{_VALUE}{{{_SHORTEST},}}",
        rf"(?i)(?P<keep>{_START}{_PASSWORD}=){_NO_TEMPLATE}{_VALUE}{{{_SHORTEST},}}"
        r"(?=[;&]|[ ]+\w+=[^\s,()=])",
        rf"(?P<keep>{_START}machine\s+\S+\s+login\s+\S+\s+password\s+)[^\s*][^\s\"]*",
        rf"(?P<keep>{_START}curl\b[^\n]{{0,200}}?\s(?:-u|--user)[ =][^\s:*]*:)[^\s*]\S*",
        # settings that are written out
        rf"(?i)(?P<keep>{_NAMED}{_QUOTE}?\]?\s*(?::=|=>|[:=])\s*{_QUOTE}){_NO_TEMPLATE}{_WITH_DIGIT}"
        rf"{_VALUE}{{8,}}(?={_QUOTE})",
        rf"(?i)(?P<keep>token{_QUOTE}?\]?\s*(?::=|=>|[:=])\s*{_QUOTE}){_NO_TEMPLATE}{_WITH_DIGIT}"
        rf"{_VALUE}{{16,}}(?={_QUOTE})",
        rf"(?P<keep>{_START}key\s*=\s*{_QUOTE})[0-9a-f]{{40}}(?={_QUOTE})",
        rf"(?im)(?P<keep>(?:^|(?<=\\n))[+ -]?[ \t]*[\w.-]{{0,40}}?{_NAMED}[ \t]*:[ \t]+)"
        rf"{_NO_TEMPLATE}{_WITH_DIGIT}[^\s\"'\\{{}}\[\]()]{{8,}}(?=[ \t]*(?:$|\\+[nr]|\\*\"))",
        r"(?m)(?P<keep>(?:^|(?<=\\n))[+ -]?[ \t]*(?:export[ ]+)?"
        r"[A-Z0-9_]*(?:PASSWORD|PASSWD|SECRET|TOKEN|KEY)=)"
        rf"{_NO_TEMPLATE}{_WITH_DIGIT}[^\s\"'\\{{}}()]{{8,}}",
        r"(?P<keep>_auth(?:Token)?\s*=\s*)[^\s*]{8,}|(?P<kept>\"auth\":\s*\")[A-Za-z0-9+/=]{16,}",
    )
]

# Of files, by their names; those that end with an example's name are none.
_KINDS = (
    *(".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks"),
    *("*.keystore", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc"),
    *(".pypirc", ".npmrc", ".yarnrc", ".pgpass", ".my.cnf", ".htpasswd", ".git-credentials"),
    *(".dockercfg", ".dockerconfigjson", ".boto", ".s3cfg", ".vault-token", "*.ovpn", "*.token"),
    *("credentials", "credentials.*", "*_credentials.json", "client_secret*.json"),
    *("service_account*.json", "service-account*.json", "secrets.*", "secret.*", "kaggle.json"),
    *("kubeconfig*", "*.kubeconfig", "token.json", "token.txt", "*.tfvars", "*.tfstate"),
)
_PLACES = (
    *("*.aws/*", "*.ssh/*", "*.kube/*", "*.gnupg/*", "*.docker/config.json"),
    *("*.dvc/config.local", "*.config/gcloud/*"),
)
# A setting a line: `name = value`, or `name: value`.
_SETTINGS = ("*/.dvc/config", "*/params.yaml", "*.ini", "*.cfg", "*.conf", "*.properties")
_NO_KINDS = ("*.example", "*.sample", "*.template", "*.dist", "*.pub", "*.py", "*.pyi", "*.md")


def redact(text: str, environment: Mapping[str, str] = os.environ) -> str:
    """`text` with all that is secret struck out; done again, it stays as it is."""
    own = _pattern(_secrets(environment))
    return _struck(text, [*_FORMS, own] if own else _FORMS)


def holds_secret(text: str, environment: Mapping[str, str] = os.environ) -> bool:
    """Is there anything in `text` that `redact` would strike out?"""
    return redact(text, environment) != text


def redact_words(
    words: Iterable[str], environment: Mapping[str, str] = os.environ
) -> Iterable[str]:
    """A command's words: what follows `--password` goes too, and what `db.password=` says."""
    option = ""
    for word in words:
        name, equals, value = word.partition("=")
        if option and not word.startswith("-") and _is_meant(word):
            word = STRUCK
        elif equals and _says_secret(name) and _is_meant(value):
            word = f"{name}={STRUCK}"
        option = word if word.startswith("-") and not equals and _says_secret(word) else ""
        yield redact(word, environment)


def is_secret_kind(name: str) -> bool:
    """Does a file of that name, or at that path, keep passwords?"""
    path = name.lower()
    base = path.rpartition("/")[2]
    if _is_any(base, _NO_KINDS):
        return False
    return _is_any(base, _KINDS) or _is_any(f"/{path}", _PLACES)


def _is_any(name: str, patterns: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def why_secret(name: str, content: bytes) -> str:
    """Why a file is not to leave this machine, or nothing."""
    return OF_A_KIND if is_secret_kind(name) else HELD if bytes_hold_secret(content, name) else ""


def bytes_hold_secret(content: bytes, name: str = "") -> bool:
    """Is there a secret in a file or its patch, be it text of one byte a character or of two?"""
    text = content.replace(b"\0", b"").decode(errors="replace")
    if holds_secret(text):
        return True
    if not _is_any(f"/{name.lower()}", _SETTINGS):
        return False
    settings = (re.match(r"[-+\s]*([^=:]+)[=:](.*)", line) for line in text.splitlines())
    return any(
        one and _says_secret(one[1].strip()) and _is_meant(one[2].strip(" \t\"'"))
        for one in settings
    )


def secrets_in_patch(patch: bytes, root: Path, changed: Iterable[Path]) -> list[str]:
    """The files whose change, by Git's patch of those `changed` in `root`, holds a secret.

    Of what is no text, a patch has the bytes packed: then the file itself is read.
    """
    found = []
    for part in re.split(rb"(?m)^(?=diff --git )", patch)[1:]:
        names = part.partition(b"\n")[0].removeprefix(b"diff --git ").decode(errors="replace")
        name = names[2 : 2 + (len(names) - 5) // 2]  # `a/NAME b/NAME`
        if bytes_hold_secret(part, name):
            found.append(name)
    if b"\nGIT binary patch\n" in patch:
        files = [path for path in changed if path.is_file() and not path.is_symlink()]
        binary = [path for path in files if b"\0" in path.read_bytes()]
        held = [path for path in binary if bytes_hold_secret(path.read_bytes())]
        found += [path.relative_to(root).as_posix() for path in held]
    return found


def fit(value: Any, environment: Mapping[str, str], name: str = "") -> Any:
    """A value, and all inside it; of a text whose name says that it is secret, nothing is left."""
    match value:
        case str():
            meant = _says_secret(name) and _is_meant(value)
            return STRUCK if meant else redact(value, environment)
        case list() | tuple():
            return [fit(one, environment, name) for one in value]
        case Mapping():
            return {key: fit(one, environment, str(key)) for key, one in value.items()}
    return value


def _struck(text: str, forms: Sequence[re.Pattern[str]]) -> str:
    before = None
    while text != before:
        before = text
        if "%" in text:
            text = _WORD.sub(lambda found: _percent_struck(found[0], forms), text)
        for form in forms:
            text = form.sub(_strike, text)
    return text


def _percent_struck(word: str, forms: Sequence[re.Pattern[str]]) -> str:
    """A word that may be percent-encoded, as part of an address or of a form is."""
    for decode in (unquote, unquote_plus) if "%" in word else ():
        decoded = decode(word)
        if decoded != word and (left := _struck(decoded, forms)) != decoded:
            return quote(left, safe=_NOT_ENCODED)
    return word


def _strike(found: re.Match[str]) -> str:
    return next(filter(None, found.groupdict().values()), "") + STRUCK


@lru_cache(maxsize=1024)
def _says_secret(name: str, variable: bool = False) -> bool:
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name.rpartition(".")[2] or name)
    said = _OF_A_VOCABULARY.sub("", f"_{'_'.join(words).lower()}_")
    return (_SAID_OF_VARIABLE if variable else _SAID_OF_TEXT).search(said) is not None


def _is_meant(value: str) -> bool:
    """Can that be a secret, and no text that stands for one, as `<password>`, `$TOKEN`, `[PAD]`?"""
    return value[:1] not in "<[{*$" and _counts(value)


def _counts(value: str) -> bool:
    """Can that be a secret, or is it too short, a switch, a number or a path?"""
    if len(value) < _SHORTEST or value.lower() in _PLAIN or not value.strip("*"):
        return False
    try:
        float(value)
    except ValueError:
        return not os.path.exists(value)
    return False


def _secrets(environment: Mapping[str, str]) -> tuple[str, ...]:
    """The longest first: another one may be its beginning."""
    found: set[str] = set()
    for name in list(environment):  # another thread may change it
        value = environment.get(name, "")
        if _says_secret(name, variable=True):
            lines = [line.strip() for line in value.splitlines() if line.strip()]
            found |= {line for line in lines if len(lines) == 1 or len(line) >= 16}
        login = _LOGIN.match(value)
        if login and login[1] != login[2]:
            found.add(unquote(login[2]))
    return tuple(sorted(filter(_counts, found), key=lambda one: (-len(one), one)))


@lru_cache(maxsize=8)
def _pattern(secrets: tuple[str, ...]) -> re.Pattern[str] | None:
    """Any of those, as it is or in JSON."""
    alternatives = ("".join(map(_in_json, secret)) for secret in secrets)
    return re.compile("|".join(alternatives)) if secrets else None


@cache
def _in_json(character: str) -> str:
    """A pattern of a character as it is and as JSON has it, in JSON itself too."""
    if character == "\\":
        return r"\\+"
    if character in "\"'/":
        return rf"\\*{character}"
    if character.isascii() and character.isprintable():
        return re.escape(character)
    units = json.dumps(character)[1:-1].split("\\")[1:]  # of one beyond 16 bits there are two
    escaped = "".join(rf"\\+{unit}" for unit in units)
    return f"(?:{re.escape(character)}|(?i:{escaped}))"
