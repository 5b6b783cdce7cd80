"""How secrets look: tokens as their makers write them, logins, settings; files by their names."""

import re

SHORTEST = 4  # characters; a shorter value would black out ordinary words

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
FORMS = [
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
        rf"{_NO_TEMPLATE}{_VALUE}{{{SHORTEST},}}",
        rf"(?i)(?P<keep>(?<![\w(,])[\w ]{{2,20}}=[^\s,;()&\"']+[ ]+{_PASSWORD}=)"
        rf"{_NO_TEMPLATE}{_VALUE}{{{SHORTEST},}}",
        rf"(?i)(?P<keep>{_START}{_PASSWORD}=){_NO_TEMPLATE}{_VALUE}{{{SHORTEST},}}"
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
KINDS = (
    *(".env", ".env.*", "*.env", ".envrc", "*.pem", "*.key", "*.ppk", "*.p12", "*.pfx", "*.jks"),
    *("*.keystore", "*.kdbx", "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", ".netrc", "_netrc"),
    *(".pypirc", ".npmrc", ".yarnrc", ".pgpass", ".my.cnf", ".htpasswd", ".git-credentials"),
    *(".dockercfg", ".dockerconfigjson", ".boto", ".s3cfg", ".vault-token", "*.ovpn", "*.token"),
    *("credentials", "credentials.*", "*_credentials.json", "client_secret*.json"),
    *("service_account*.json", "service-account*.json", "secrets.*", "secret.*", "kaggle.json"),
    *("kubeconfig*", "*.kubeconfig", "token.json", "token.txt", "*.tfvars", "*.tfstate"),
)
PLACES = (
    *("*.aws/*", "*.ssh/*", "*.kube/*", "*.gnupg/*", "*.docker/config.json"),
    *("*.dvc/config.local", "*.config/gcloud/*"),
)
SETTINGS = ("*/.dvc/config", "*.ini", "*.cfg", "*.conf", "*.properties")  # `name = value` a line
NO_KINDS = ("*.example", "*.sample", "*.template", "*.dist", "*.pub", "*.py", "*.pyi", "*.md")
