"""The uncommitted change of a run: whoever asks Git, it gives the run's very files again."""

import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from workspaces import IDENTITY

from runrecord.git.commands import git
from runrecord.git.patch import check_out, describe_code

ODD = "src/--odd \t'\"\n 이름"
OTHERS = b"src/\xff\xfe.py"
COMMITTED = {
    ".dvc/.gitignore": b"/tmp\n",
    ".gitignore": b"*.ignored\n",
    "src/blank.py": b"1\n\n\n2\n\n\n3\n\n4\n",
    "src/code.py": b"ONE = 1\nTWO = 2\n",
    "src/crlf.txt": b"one\r\ntwo\nthree\r\n",
    "src/folder/inside.py": b"",
    "src/gone.py": b"a = 1\nb = 2\n",
    "src/id.txt": b"$Id$\n",
    "src/kept.py": b"KEPT = 1\n",
    "src/kept_crlf.bat": b"kept\r\n",
    "src/run.sh": b"#!/bin/sh\n",
    "src/turns": b"a file\n",
    "src/was_link": b"code.py",
}
NOW = {
    ODD: b"odd\n",
    "src/Code.py": b"another case\n",
    "src/binary.bin": bytes(range(256)),
    "src/blank.py": b"1\n\n\n2\n\n\n3\n\n5\n",
    "src/code.py": b"ONE = 1\nTWO = 3  \t\n\x20\tlast, with no newline",
    "src/copy.py": b"a = 1\nb = 2\n",
    "src/crlf.txt": b"one\ntwo\r\nthree\r\nfour\rfive",
    "src/empty.py": b"",
    "src/folder": b"is a file\n",
    "src/id.txt": b"$Id: mine $\n",
    "src/new.py": b"NEW = 1\r\n",
    "src/run.sh": b"#!/bin/sh\n",
    "src/turns/inside.py": b"in a folder now\n",
    "src/utf16.txt": "글\n".encode("utf-16"),
    "src/was_link": b"a file now",
}


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def commit(folder: Path, *names: str) -> None:
    git(folder, "add", "--all", *names)
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x", environment=IDENTITY)


def begin(folder: Path) -> Path:
    write(folder, COMMITTED)
    (folder / ".dvc/tmp").mkdir()
    (folder / "src/was_link").unlink()
    (folder / "src/was_link").symlink_to("code.py")
    git(folder, "init", "--quiet", "--template=", "--initial-branch=main")
    commit(folder)
    return folder


def change(folder: Path) -> Path:
    """Everything that can become of a file."""
    for name in ("src/gone.py", "src/turns", "src/was_link", "src/folder/inside.py"):
        (folder / name).unlink()
    (folder / "src/folder").rmdir()
    write(folder, NOW)
    (folder / "src/run.sh").chmod(0o755)
    (folder / "src/link").symlink_to("nowhere \n")
    with open(os.fsencode(folder) + b"/" + OTHERS, "wb") as file:
        file.write(b"\xff")
    return folder


def copied(repository: Path, folder: Path) -> Path:
    return shutil.copytree(repository, folder / "repository", symlinks=True)


@pytest.fixture(scope="module")
def committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return begin(tmp_path_factory.mktemp("template") / "repository")


@pytest.fixture(scope="module")
def changed(committed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return change(copied(committed, tmp_path_factory.mktemp("template")))


@pytest.fixture
def repository(changed: Path, tmp_path: Path) -> Path:
    return copied(changed, tmp_path)


@pytest.fixture(scope="module")
def expected(changed: Path) -> bytes:
    """The change as it is recorded where nobody set anything."""
    _, patch, trouble = describe(changed)
    assert not trouble
    return patch


def describe(folder: Path) -> tuple[dict[str, str], bytes, str]:
    return describe_code(folder, ["src"], ["src/generated.txt"])


def files_of(folder: Path) -> dict[bytes, tuple[str, bytes]]:
    """Every file by its path: what it is, and what it holds."""
    found = {}
    for place, folders, files in os.walk(os.fsencode(folder)):
        folders[:] = [name for name in folders if name not in (b".git", b"tmp")]
        files = [name for name in files if name != b".git"]  # of a worktree
        for name in files + [name for name in folders if os.path.islink(os.path.join(place, name))]:
            path = os.path.join(place, name)
            mode = os.lstat(path).st_mode
            kind = "link" if stat.S_ISLNK(mode) else "program" if mode & 0o100 else "file"
            content = os.readlink(path) if kind == "link" else Path(os.fsdecode(path)).read_bytes()
            found[os.path.relpath(path, os.fsencode(folder))] = (kind, content)
    return found


def rebuilt(root: Path, tags: Mapping[str, str], patch: bytes, clone: Path) -> Path:
    return check_out(root, tags["git.commit"], patch, clone)


def assert_same_again(folder: Path, clone: Path, *, dirty: bool = True) -> bytes:
    """Record the change, have its code again, and find every byte and mode as it was."""
    tags, patch, trouble = describe(folder)
    assert trouble == ""
    assert tags["git.dirty"] == str(dirty).lower()
    assert files_of(rebuilt(folder, tags, patch, clone)) == files_of(folder)
    assert not list((folder / ".dvc/tmp").glob("*")), "nothing is left"
    return patch


SETTINGS = """
    core.autocrlf=true core.eol=crlf core.safecrlf=true core.bigFileThreshold=1 core.compression=0
    core.whitespace=cr-at-eol,tab-in-indent merge.renormalize=true core.quotePath=true
    core.precomposeUnicode=true core.ignoreCase=true core.protectHFS=true core.protectNTFS=true
    core.fileMode=false core.symlinks=false core.trustctime=false core.checkStat=minimal
    core.ignoreStat=true core.sharedRepository=0600 core.splitIndex=true core.untrackedCache=true
    core.fsmonitor=/no/such/program index.sparse=true index.version=4 feature.manyFiles=true
    core.hooksPath={folder}/hooks core.useReplaceRefs=false init.templateDir={folder}/template
    init.defaultObjectFormat=sha256 init.defaultRefFormat=reftable checkout.workers=4
    diff.noprefix=true diff.mnemonicPrefix=true diff.srcPrefix=x/ diff.dstPrefix=y/ diff.context=0
    diff.interHunkContext=9 diff.algorithm=patience diff.suppressBlankEmpty=true
    diff.orderFile=/no/such/file diff.external=false diff.renames=copies diff.submodule=log
    diff.ignoreSubmodules=all diff.relative=true diff.wsErrorHighlight=all diff.wordRegex=.
    diff.default.binary=true core.abbrev=4 core.attributesFile=/no/such/file
    apply.whitespace=error-all apply.ignoreWhitespace=change add.ignoreErrors=true
    core.excludesFile=/dev/null submodule.recurse=true transfer.hideRefs=refs color.ui=always
    core.pager=false pager.ls-files=true column.ui=always core.warnAmbiguousRefs=true
    alias.ls-files=!false alias.apply=!false status.showUntrackedFiles=no status.branch=true
    status.relativePaths=false i18n.logOutputEncoding=UTF-16
"""


def prepare(folder: Path, found: Iterable[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a person's settings, and the repository's own, be those."""
    write(folder, {"template/info/attributes": b"* text eol=crlf\n"})
    write(folder, {"template/config": b"[core]\n\tautocrlf = true\n"})
    write(folder, {f"hooks/{name}": b"#!/bin/sh\nexit 1\n" for name in ("post-checkout", "x")})
    (folder / "hooks/post-checkout").chmod(0o755)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(folder / "gitconfig"))
    for one in found:
        key, _, value = one.format(folder=folder).partition("=")
        for file in (folder / "gitconfig", folder / "repository/.git/config"):
            git(folder, "config", "--file", str(file), key, value)


def test_no_setting_shapes_a_change_or_what_is_made_of_it(
    repository: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, SETTINGS.split(), monkeypatch)
    assert assert_same_again(repository, tmp_path / "clone") == expected


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("core.worktree=/usr", "left out: Git's core.worktree is /usr, which"),
        ("core.repositoryFormatVersion=9", "Git refuses: Expected git repo version"),
    ],
)
def test_a_setting_under_which_git_refuses_is_said(
    repository: Path, setting: str, said: str
) -> None:
    key, _, value = setting.partition("=")
    git(repository, "config", "--file", str(repository / ".git/config"), key, value)
    tags, patch, trouble = describe(repository)
    assert patch == b""
    assert said in trouble
    assert said in tags.get("git.error", tags.get("git.patch", ""))
    assert tags.get("git.dirty", "true") == "true"


FILTER = "*.py filter=odd\n"
# The attributes that are committed, a person's filter, and what becomes of a run: of one with no
# change, and of one whose files were all edited.
LEFT_OUT_OR_RIGHT: dict[str, tuple[str, str, str, str]] = {
    "text": ("* text=auto diff=odd whitespace=fix\n*.bin crlf\n", "", "right", "right"),
    "line ends": ("*.py text eol=crlf\n*.txt eol=crlf\n", "", "right", "left out"),
    "expansions": ("*.txt ident export-subst export-ignore\n", "", "right", "left out"),
    "a filter nobody has": (FILTER, "", "right", "right"),
    "a filter": (FILTER, "clean=sed s/up/1/;smudge=sed s/1/up/", "right", "left out"),
    "a filter that did not run": (FILTER, "smudge=sed s/1/up/", "left out", "left out"),
    "a filter that must not fail": (FILTER, "smudge=false;required=1", "left out", "left out"),
}


def as_recorded(folder: Path, clone: Path) -> str:
    """Whether the code is left out, with nothing recorded of it, or comes back byte for byte."""
    tags, patch, trouble = describe(folder)
    if tags["git.patch"].startswith("left out: "):
        assert patch == b""
        assert trouble.startswith("the uncommitted change is left out: ")
        return "left out"
    assert files_of(rebuilt(folder, tags, patch, clone)) == files_of(folder)
    return "right"


@pytest.mark.parametrize("kind", LEFT_OUT_OR_RIGHT)
def test_under_any_committed_attributes_a_change_is_left_out_or_right(
    committed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    attributes, settings_of_filter, clean, edited = LEFT_OUT_OR_RIGHT[kind]
    repository = copied(committed, tmp_path)
    write(repository, {".gitattributes": attributes.encode()})
    commit(repository)
    found = [f"filter.odd.{one}" for one in settings_of_filter.split(";") if one]
    prepare(tmp_path, ["diff.odd.command=false", "diff.odd.textconv=false", *found], monkeypatch)
    if clean == "right":
        shutil.rmtree(repository / "src")
        git(repository, "checkout", "--", "src")
    assert as_recorded(repository, tmp_path / "clean") == clean
    if kind == "line ends":  # which Git itself sees no change of
        write(repository, {"src/kept.py": b"KEPT = 1\n"})
        assert git(repository, "diff") == b""
        assert as_recorded(repository, tmp_path / "unseen") == "left out"
    change(repository)
    write(repository, {"src/code.py": b"ONE = up\nTWO = 2\nTHREE = 3\n"})
    assert as_recorded(repository, tmp_path / "clone") == edited


@pytest.mark.parametrize("place", ["global", "info"])
def test_no_attribute_of_a_persons_shapes_a_change_and_what_they_ignore_is_no_part_of_it(
    repository: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    prepare(tmp_path, ("filter.odd.clean=sed s/1/7/", "filter.odd.smudge=sed s/1/8/"), monkeypatch)
    folder = {"global": ".", "info": "repository/.git/info"}[place]
    ignore = "exclude" if place == "info" else "ignore"
    if place == "global":
        for name, file in (("attributesFile", "attributes"), ("excludesFile", "ignore")):
            git(tmp_path, "config", "--global", f"core.{name}", str(tmp_path / file))
    attributes = "".join(["* filter=odd\n", *(one for one, *_ in LEFT_OUT_OR_RIGHT.values())])
    write(tmp_path / folder, {"attributes": attributes.encode(), ignore: b"mine*\ncode.py\n"})
    assert assert_same_again(repository, tmp_path / "clone") == expected
    write(repository / "src", dict.fromkeys(("mine1.py", "mine2/x.py", "z.ignored"), b"MINE = 1\n"))
    assert describe(repository)[1:] == (expected, "")
    git(repository, "add", "--force", "src/mine1.py")
    assert b"b/src/mine1.py" in describe(repository)[1], "whoever adds a file means it"


VARIABLES = """
    GIT_DIR=/nowhere GIT_WORK_TREE=/usr GIT_COMMON_DIR=/nowhere GIT_INDEX_FILE=/nowhere/index
    GIT_INDEX_VERSION=4 GIT_OBJECT_DIRECTORY=/nowhere GIT_ALTERNATE_OBJECT_DIRECTORIES=/nowhere
    GIT_NAMESPACE=odd GIT_CEILING_DIRECTORIES={folder} GIT_PREFIX=src/ GIT_CONFIG=/nowhere
    GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=core.autocrlf GIT_CONFIG_VALUE_0=true
    GIT_CONFIG_SYSTEM={folder}/hostile GIT_ATTR_SOURCE=no-such GIT_EXTERNAL_DIFF=false
    GIT_DIFF_OPTS=--unified=0 GIT_LITERAL_PATHSPECS=1 GIT_GLOB_PATHSPECS=1 GIT_NOGLOB_PATHSPECS=1
    GIT_ICASE_PATHSPECS=1 GIT_TRACE=2 GIT_TRACE2=2 GIT_TRACE_SETUP=1 GIT_DEFAULT_HASH=sha256
    GIT_DEFAULT_REF_FORMAT=reftable GIT_TEMPLATE_DIR={folder}/template GIT_OPTIONAL_LOCKS=0
    GIT_SHALLOW_FILE=/nowhere GIT_GRAFT_FILE=/nowhere GIT_REPLACE_REF_BASE=refs/odd
    GIT_ALLOW_PROTOCOL=none GIT_PROTOCOL_FROM_USER=0 GIT_PAGER=false GIT_QUARANTINE_PATH=/nowhere
    GIT_INTERNAL_SUPER_PREFIX=odd/ GIT_ADVICE=1 LANGUAGE=de:fr:ko LANG=ko_KR.EUC-KR
    LC_MESSAGES=de_DE.UTF-8 COLUMNS=1 TERM=dumb
"""


def test_no_variable_shapes_a_change_or_what_is_made_of_it(
    repository: Path, expected: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare(tmp_path, (), monkeypatch)
    write(tmp_path, {"hostile": b"[core]\n\tautocrlf = true\n[diff]\n\tnoprefix = true\n"})
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'diff.noprefix=true' 'core.autocrlf=true'")
    for one in VARIABLES.split():
        name, _, value = one.format(folder=tmp_path).partition("=")
        monkeypatch.setenv(name, value)
    assert assert_same_again(repository, tmp_path / "clone") == expected


# Of each kind of repository, its folder beside the committed one, and what Git makes it by.
ODD_FOLDER = "a\"b\"\\'c'#:;"
KINDS = {
    "a worktree": ("other", "-C repository worktree add --detach ../other"),
    "shallow": ("other", "clone --depth=1 file://{folder}/repository other"),
    "partial": ("other", "clone --filter=blob:none file://{folder}/repository other"),
    "a submodule": ("top/x", "-C top -c protocol.file.allow=always submodule add ../repository x"),
    "oddly named": (ODD_FOLDER, f"clone repository {ODD_FOLDER}"),
    "behind a link": ("link", "version"),
    "on an odd branch": ("repository", "-C repository branch -m HEAD-\udcff/\udcea"),
    "with a broken ref": ("repository", "version"),
}


@pytest.mark.parametrize("kind", KINDS)
def test_in_a_repository_of_any_kind(committed: Path, tmp_path: Path, kind: str) -> None:
    name, command = KINDS[kind]
    repository = copied(committed, tmp_path)
    git(repository, "config", "uploadpack.allowFilter", "true")
    git(tmp_path, "init", "--quiet", "top")
    (tmp_path / "link").symlink_to(repository)
    git(repository, "update-ref", "refs/heads/HEAD", "HEAD")
    git(tmp_path, *command.format(folder=tmp_path).split())
    if kind == "with a broken ref":
        write(repository, {".git/refs/heads/broken": b"1" * 40 + b"\n"})
    folder = tmp_path / name
    (folder / ".dvc/tmp").mkdir(exist_ok=True)
    assert_same_again(folder, tmp_path / "clean", dirty=False)
    assert_same_again(change(folder), tmp_path / "clone")


def test_in_a_folder_of_a_repository(committed: Path, tmp_path: Path) -> None:
    """What lies outside the DVC repository is none of its code."""
    write(tmp_path, {"top/.gitignore": b"*.ignored\n", "top/src/other.py": b""})
    below = shutil.copytree(committed, tmp_path / "top/below", symlinks=True)
    shutil.rmtree(below / ".git")
    git(tmp_path / "top", "init", "--quiet")
    commit(tmp_path / "top")
    write(tmp_path / "top", {"src/other.py": b"OTHER = 1\n"})
    tags, patch, _ = describe(change(below))
    assert files_of(rebuilt(below, tags, patch, tmp_path / "clone")) == files_of(below)
    assert b"OTHER" not in patch


def test_what_an_index_hides_is_a_change_and_what_a_sparse_checkout_lacks_the_run_lacked(
    repository: Path, committed: Path, expected: bytes, tmp_path: Path
) -> None:
    git(repository, "update-index", "--assume-unchanged", "src/code.py")
    git(repository, "update-index", "--skip-worktree", "src/blank.py")
    git(repository, "add", "--intent-to-add", "src/new.py")
    assert describe(repository)[1] == expected
    sparse = copied(committed, tmp_path / "sparse")
    git(sparse, "update-index", "--refresh")
    git(sparse, "sparse-checkout", "set", "--no-cone", "/*", "!/src/gone.py")
    assert_same_again(sparse, tmp_path / "clone")


def test_submodules_and_other_repositories_among_the_code(
    repository: Path, committed: Path
) -> None:
    """A submodule is a commit of another repository's: what it is changed by would be nowhere."""
    allowed = ("-c", "protocol.file.allow=always")
    git(repository, *allowed, "submodule", "add", "--quiet", str(committed), "src/below")
    commit(repository)
    tags, patch, trouble = describe(repository)
    assert (tags["git.dirty"], patch, trouble) == ("false", b"", "")
    write(repository, {"src/below/src/kept.py": b"KEPT = 2\n"})
    assert "left out: the submodule src/below is not as it is committed" in describe(repository)[2]
    git(repository / "src/below", "commit", "--quiet", "-am", "more", environment=IDENTITY)
    assert "left out: the submodule src/below is not as it is committed" in describe(repository)[2]
    git(repository, "submodule", "deinit", "--force", "--quiet", "src/below")
    assert describe(repository)[2] == ""
    shutil.copytree(committed, repository / "src/vendored", symlinks=True)
    assert "left out: src/vendored/ is a Git repository of its own" in describe(repository)[2]


def test_a_change_that_would_not_give_the_files_again_is_left_out(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Git whose `apply` leaves something out: what is recorded was tried."""
    real = shutil.which("git")
    assert real is not None
    program = (
        f'#!/bin/sh\ncase "$*" in *"apply --white"*) cat >/dev/null;; *) exec {real} "$@";; esac\n'
    )
    write(tmp_path, {"bin/git": program.encode()})
    (tmp_path / "bin/git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"), prepend=os.pathsep)
    tags, patch, trouble = describe(repository)
    assert patch == b""
    assert tags["git.patch"].startswith("left out: a checkout of it gives other bytes of src/")
    assert trouble == f"the uncommitted change is {tags['git.patch']}; commit what the run needs."


def test_large_new_files_are_left_out_alone_and_the_rest_is_recorded(
    committed: Path, tmp_path: Path
) -> None:
    folder = copied(committed, tmp_path)
    large = b"0123456789abcdef" * 2**17
    write(folder, {"src/code.py": b"ONE = 2\n", "src/small.bin": large[: 2**19]})
    expected = files_of(folder)
    more = {f"src/{number}.png": large[: 2**19 + number] for number in range(1, 7)}
    write(folder, {**more, "src/big.bin": large, "src/.env": b"A=1\n"})
    tags, patch, trouble = describe(folder)
    assert tags["git.patch"] == (
        "recorded without src/.env, which is of a kind that keeps passwords, and without "
        "src/big.bin, src/6.png, src/5.png and 4 more (too large: 5.2 MB)"
    )
    assert trouble == f"the uncommitted change is {tags['git.patch']}; name them in .gitignore."
    assert files_of(rebuilt(folder, tags, patch, tmp_path / "clone")) == expected


def test_a_large_change_of_committed_files_is_left_out_whole(
    committed: Path, tmp_path: Path
) -> None:
    folder = copied(committed, tmp_path)
    write(folder, {"src/big.txt": b"0123456789abcdef\n" * 2**18})
    commit(folder)
    (folder / "src/big.txt").unlink()
    assert "bytes, more than" in describe(folder)[2], "what is removed counts too"
    write(folder, {"src/code.py": b"x" * (2**20 + 1), "src/new.bin": b"x" * 2**20})
    tags, patch, _ = describe(folder)
    assert patch == b""
    assert tags["git.patch"] == "left out: 1048577 bytes of files are changed, more than 1048576"


# Of an empty file, Git's patches cannot tell a name that begins or ends with a space.
NAMES = st.binary(min_size=1, max_size=6).filter(
    lambda name: not set(name) & set(b"/\0") and name.strip() == name and name not in (b".", b"..")
) | st.sampled_from([b"a", b"b", b"-p", b"x y", b'"', b"a\nb", b"a\tb", b"\xea", b"\\", b"'"])
LINES = st.lists(st.sampled_from([b"one\n", b"two\r\n", b"\r", b"three", b"\n", b"\0", b" \n"]))
CONTENTS = st.binary(max_size=30) | LINES.map(b"".join)
FILES = st.tuples(st.sampled_from(["file", "program", "link"]), CONTENTS)
TREES: st.SearchStrategy[dict[bytes, object]] = st.recursive(
    st.dictionaries(NAMES, FILES, max_size=4),
    lambda inner: st.dictionaries(NAMES, FILES | inner, max_size=4),
    max_leaves=8,
)
CONFIGURATIONS = st.sets(st.sampled_from(SETTINGS.split()), max_size=3)


def plant(folder: bytes, tree: Mapping[bytes, object]) -> None:
    """Make the files of a tree, so far as file system and Git have such names."""
    os.makedirs(folder, exist_ok=True)
    for name, what in tree.items():
        path = os.path.join(folder, name)
        if name.lower().startswith((b".git", b"git~")):
            continue
        if isinstance(what, dict):
            plant(path, what)
            continue
        assert isinstance(what, tuple)
        kind, content = what
        if kind == "link":
            os.symlink(content.replace(b"\0", b"") or b"x", path)
            continue
        with open(path, "wb") as file:
            file.write(content)
        os.chmod(path, 0o755 if kind == "program" else 0o644)


ATTRIBUTES = st.just("") | st.sampled_from(
    ["text=auto", "text eol=crlf", "ident", "working-tree-encoding=LATIN-1", "-text", "filter=odd"]
)
FILTERS = st.sampled_from(["", "clean=cat", "smudge=sed s/o/u/", "clean=sed s/o/u/"])


@settings(deadline=None, derandomize=True, max_examples=15)
@given(TREES, TREES, CONFIGURATIONS, ATTRIBUTES, FILTERS)
def test_any_tree_that_git_can_hold_comes_back_or_is_left_out(
    tmp_path_factory: pytest.TempPathFactory,
    before: dict[bytes, object],
    after: dict[bytes, object],
    configuration: set[str],
    attributes: str,
    filtered: str,
) -> None:
    """It is left out under attributes alone."""
    folder = tmp_path_factory.mktemp("tree")
    repository = folder / "repository"
    source = os.fsencode(repository / "src")
    plant(source, before)
    (repository / ".dvc/tmp").mkdir(parents=True)
    if attributes:
        write(repository, {".gitattributes": f"src/** {attributes}\n".encode()})
    git(repository, "init", "--quiet", "--template=")
    commit(repository)
    shutil.rmtree(source)
    plant(source, after)
    with pytest.MonkeyPatch.context() as monkeypatch:
        given = [*configuration, *([f"filter.odd.{filtered}"] if filtered else [])]
        prepare(folder, given, monkeypatch)
        assert as_recorded(repository, folder / "clone") == "right" or attributes
