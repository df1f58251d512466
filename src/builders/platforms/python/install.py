"""install.py <build-dir> <cache-dir>: creates the virtual environment of an app, at .tancho in its folder.

One file declares what is installed, the first that exists of: requirements.txt, Pipfile.lock, Pipfile,
poetry.lock, uv.lock, pyproject.toml, setup.py, setup.cfg. If there are others of these, the output names
them.

The environment is cached under a hash of the interpreter and of all inputs, so that an unchanged app is
deployed without pip. Not so if a requirement can change while its line stays the same: a folder of the
app, a branch, a URL. The build folder moves afterwards, so files that contain its path are made
relative.
"""

import glob
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys

try:
    import tomllib
except ImportError:  # before Python 3.11
    tomllib = None

BUILD = os.path.abspath(sys.argv[1])
CACHE = os.path.abspath(sys.argv[2])
TEMP = os.environ.get("TMPDIR", "/tmp")
ENV = os.path.join(BUILD, ".tancho")
# Files that declare the requirements of an app, in order of precedence.
DECIDING = ["requirements.txt", "Pipfile.lock", "Pipfile", "poetry.lock", "uv.lock", "pyproject.toml", "setup.py", "setup.cfg"]
# Files of tools that are not supported.
UNREAD = ["pdm.lock", "pylock.toml", "environment.yml", "environment.yaml", "conda-lock.yml"]


def say(text):
    print(" ---> " + text, flush=True)


def fail(text):
    print(" !     " + text, file=sys.stderr, flush=True)
    sys.exit(1)


def run(*command, **variables):
    """Runs a command; exits with its status if it fails, since its output names the cause."""
    code = subprocess.call(command, env={**os.environ, **variables})
    if code != 0:
        sys.exit(code if code > 0 else 128 - code)


def pip(*arguments):
    run(
        os.path.join(ENV, "bin", "python"), "-m", "pip", *arguments,
        PIP_CACHE_DIR=os.path.join(CACHE, "pip"), PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1",
        PYTHONDONTWRITEBYTECODE="",
    )


def tool(name, *packages):
    """Creates an environment with build tools in the app's cache; returns its bin folder."""
    home = os.path.join(CACHE, "tools", "%s-%d.%d" % (name, *sys.version_info[:2]))
    done = os.path.join(home, "done")
    if not os.path.exists(done):
        say("Fetching " + " and ".join(packages))
        shutil.rmtree(home, ignore_errors=True)
        run(sys.executable, "-m", "venv", home)
        run(
            os.path.join(home, "bin", "python"), "-m", "pip", "install", "--quiet", *packages,
            PIP_CACHE_DIR=os.path.join(CACHE, "pip"), PIP_DISABLE_PIP_VERSION_CHECK="1", PIP_NO_INPUT="1",
        )
        open(done, "w").close()
    return os.path.join(home, "bin")


def toml(path):
    if tomllib is None:
        return None
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except tomllib.TOMLDecodeError as error:
        fail("%s is not valid TOML: %s" % (path, error))


def text_of(path):
    with open(path, encoding="utf-8-sig", errors="replace") as file:
        return file.read()


def write_temp(name, lines):
    path = os.path.join(TEMP, name)
    with open(path, "w", encoding="utf-8") as file:
        file.write("\n".join(lines) + "\n")
    return path


class Plan:
    """What is to be installed."""

    def __init__(self):
        self.files = []  # of requirements, for pip
        self.options = []  # of pip, for these files
        self.package = None  # how the app itself is installed: "deps", "whole", "editable", "uv"
        self.keyed = []  # the inputs, for the key of the cache
        self.stable = True  # can be kept in the cache


# Requirements files and what they refer to.

def logical_lines(text):
    for line in re.sub(r"\\\r?\n", " ", text).splitlines():
        line = re.sub(r"(^|\s)#.*$", "", line).strip()
        if line:
            yield line


def is_stable(line):
    """Whether the same line always means the same packages, given the same index."""
    if re.match(r"(-e|--editable|-f|--find-links)\b", line):
        return False
    if line.startswith("-"):
        return True
    requirement = re.split(r"\s--?[a-z]|\s;", line)[0]
    if "://" in requirement:
        if "file:" in requirement:
            return False
        pinned = re.search(r"@[0-9a-f]{40}(#|$)", requirement.strip())
        return bool(pinned or re.search(r"#(.*&)?sha256=", requirement) or "--hash" in line)
    return not ("/" in requirement or requirement.startswith(".") or re.search(r"\.(whl|zip|tar\.\w+)$", requirement))


def read_requirements(path, plan, seen):
    """Adds a requirements file, and the files that it refers to, to the inputs."""
    path = os.path.normpath(path)
    if path in seen or not os.path.isfile(path):
        return
    seen.add(path)
    text = text_of(path)
    plan.keyed += [path, text]
    plan.keyed += ["%s=%s" % (name, os.environ.get(name)) for name in re.findall(r"\$\{([A-Z0-9_]+)\}", text)]
    for line in logical_lines(text):
        other = re.match(r"(?:-r|-c|--requirement|--constraint)(?:\s+|=)?(.+)$", line)
        if not other:
            plan.stable = plan.stable and is_stable(line)
        elif "://" in other[1]:
            plan.stable = False
        else:
            read_requirements(os.path.join(os.path.dirname(path), other[1].strip("\"'")), plan, seen)


# One function for each declaring file.

def plan_requirements(plan):
    plan.files = ["requirements.txt"]


def pipenv_line(name, entry):
    """Returns a requirement in pip's format, and whether it has hashes."""
    if isinstance(entry, str):
        return name + ("" if entry == "*" else entry), False
    extras = "[%s]" % ",".join(entry["extras"]) if entry.get("extras") else ""
    marker = "; " + entry["markers"] if entry.get("markers") else ""
    for kind in ("git", "hg", "svn"):
        if kind in entry:
            ref = "@" + entry["ref"] if entry.get("ref") else ""
            folder = "#subdirectory=" + entry["subdirectory"] if entry.get("subdirectory") else ""
            address = entry[kind] if entry[kind].startswith(kind + "+") else "%s+%s" % (kind, entry[kind])
            return "%s%s @ %s%s%s%s" % (name, extras, address, ref, folder, marker), False
    if "path" in entry:
        edit = "-e " if entry.get("editable") else ""
        return edit + os.path.join(".", entry["path"]) + extras, False
    if "file" in entry:
        return "%s%s @ %s%s" % (name, extras, entry["file"], marker), False
    version = entry.get("version", "")
    hashes = entry.get("hashes") or []
    line = name + extras + ("" if version == "*" else version) + marker
    return line + "".join(" --hash=" + one for one in hashes), bool(hashes)


def plan_pipenv(plan, name):
    if name == "Pipfile.lock":
        try:
            content = json.loads(text_of(name))
        except ValueError as error:
            fail("Pipfile.lock is not valid JSON: %s" % error)
        packages, sources = content.get("default", {}), content.get("_meta", {}).get("sources", [])
        plan.options = ["--no-deps"]
    else:
        content = toml(name)
        if content is None:
            fail("a Pipfile can be read with Python 3.11 or newer; write a Pipfile.lock with `pipenv lock`")
        say("There is no Pipfile.lock: versions may change from deploy to deploy")
        packages, sources = content.get("packages", {}), content.get("source", [])
    head = []
    for at, source in enumerate(source for source in sources if source.get("url")):
        # The operator may replace the default index.
        if source.get("name") != "pypi":
            head.append(("--index-url " if at == 0 else "--extra-index-url ") + source["url"])
    lines = [pipenv_line(package, entry) for package, entry in sorted(packages.items())]
    # pip accepts hashes for all requirements of a file or for none.
    for hashed in (True, False):
        part = [line for line, has_hash in lines if has_hash == hashed]
        if part:
            plan.files.append(write_temp("pipenv-%s.txt" % ("locked" if hashed else "other"), head + part))


def is_poetry_package(content):
    mode = content.get("tool", {}).get("poetry", {}).get("package-mode", True)
    return bool(mode) and "build-system" in content


def plan_poetry(plan):
    programs = tool("poetry", "poetry", "poetry-plugin-export")
    plan.files = [os.path.join(TEMP, "poetry.txt")]
    run(
        os.path.join(programs, "poetry"), "export", "--no-interaction", "--only", "main", "--with-credentials",
        "--format", "requirements.txt", "--output", plan.files[0],
        POETRY_CACHE_DIR=os.path.join(CACHE, "poetry"), POETRY_VIRTUALENVS_CREATE="false",
    )
    plan.options = ["--no-deps"]
    if is_poetry_package(toml("pyproject.toml") or {}):
        plan.package = "editable"


def plan_pyproject(plan):
    content = toml("pyproject.toml")
    if content is None:
        plan.package = "whole"
        return
    project = content.get("project")
    if project is not None and "dependencies" not in project.get("dynamic", []):
        plan.files = [write_temp("project.txt", project.get("dependencies", []))]
        plan.package = "deps" if "build-system" in content else None
    elif "poetry" in content.get("tool", {}):
        say("There is no poetry.lock: versions may change from deploy to deploy")
        python = os.path.join(tool("poetry-core", "poetry-core"), "python")
        program = (
            "from pathlib import Path; from poetry.core.factory import Factory;"
            "found = Factory().create_poetry(Path('.')).package.requires;"
            "print('\\n'.join(one.to_pep_508() for one in found if not one.is_optional()))"
        )
        found = subprocess.run([python, "-c", program], stdout=subprocess.PIPE, text=True, check=False)
        if found.returncode != 0:
            sys.exit(found.returncode)
        plan.files = [write_temp("poetry.txt", found.stdout.splitlines())]
        plan.package = "editable" if is_poetry_package(content) else None
    elif project is not None or "build-system" in content or os.path.exists("setup.py") or os.path.exists("setup.cfg"):
        plan.package = "whole"


def choose():
    """Chooses the declaring file and makes a plan of it."""
    there = [name for name in DECIDING if os.path.isfile(name)]
    plan = Plan()
    name = there[0] if there else None
    if name == "uv.lock" and not os.path.isfile("pyproject.toml"):
        fail("there is a uv.lock, but no pyproject.toml that it belongs to")
    if name == "poetry.lock" and not os.path.isfile("pyproject.toml"):
        fail("there is a poetry.lock, but no pyproject.toml that it belongs to")
    # Files that tools read together.
    partner = {"Pipfile.lock": ["Pipfile"], "poetry.lock": ["pyproject.toml"], "uv.lock": ["pyproject.toml"]}
    partner["pyproject.toml"] = partner["setup.py"] = ["setup.py", "setup.cfg"]
    # Other files may well belong to an app whose requirements are declared elsewhere.
    rivals = ["Pipfile.lock", "Pipfile", "poetry.lock", "uv.lock"] + UNREAD
    left = [other for other in rivals if os.path.isfile(other) and other != name and other not in partner.get(name, [])]
    if name is None:
        say("No file says what the app requires (%s): nothing is installed" % ", ".join(DECIDING))
    else:
        say("%s says what the app requires" % name)
    if left:
        say("Not read: " + ", ".join(left))
    if name is None and os.path.isdir("requirements"):
        say("Not read: the folder requirements; write a requirements.txt with a line such as -r requirements/prod.txt")
    if name == "requirements.txt":
        plan_requirements(plan)
    elif name in ("Pipfile.lock", "Pipfile"):
        plan_pipenv(plan, name)
    elif name == "poetry.lock":
        plan_poetry(plan)
    elif name == "uv.lock":
        plan.package, plan.stable = "uv", False
    elif name == "pyproject.toml":
        plan_pyproject(plan)
    elif name is not None:
        plan.package = "whole"
    return plan


# The environment.

def key_of(plan):
    seen = set()
    for path in plan.files:
        read_requirements(path, plan, seen)
    tuning = sorted(item for item in os.environ.items() if item[0].startswith(("PIP_", "PYTHON")))
    parts = [sys.executable, sys.version, plan.options, plan.keyed, tuning]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:32]


def relocate():
    """Makes files that contain the path of the build folder relative to themselves."""
    for script in glob.glob(os.path.join(ENV, "bin", "[Aa]ctivate*")):
        os.remove(script)
    for path in glob.glob(os.path.join(ENV, "bin", "*")):
        if os.path.isfile(path) and not os.path.islink(path):
            relocate_script(path)
    for path in glob.glob(os.path.join(ENV, "lib", "python3*", "site-packages", "*")):
        if path.endswith((".pth", ".egg-link", ".py")) and os.path.isfile(path) and not os.path.islink(path):
            relocate_import(path)


def relocate_script(path):
    with open(path, "rb") as file:
        content = file.read()
    python = re.escape(os.path.join(ENV, "bin", "python").encode())
    head = re.match(rb"#!" + python + rb"[^\n]*\n|#!/bin/sh\n'''exec' [\"']?" + python + rb"[^\n]*\n' '''\n", content)
    if head:
        # These two lines are a comment to Python and a command to the shell.
        shell = b"#!/bin/sh\n'''exec' \"$(dirname -- \"$(realpath -- \"$0\")\")\"/python \"$0\" \"$@\"\n' '''\n"
        with open(path, "wb") as file:
            file.write(shell + content[head.end():])


def relocate_import(path):
    """Rewrites files that refer to packages inside the app: those installed with `-e`."""
    content = text_of(path)
    if BUILD not in content:
        return
    up = os.path.relpath(BUILD, os.path.dirname(path))
    if path.endswith(".py"):
        # A module that contains the path of each package as a string.
        root = "__import__('os').path.realpath(__import__('os').path.join(__import__('os').path.dirname(__file__), %r))" % up
        content = re.sub("(['\"])" + re.escape(BUILD) + r"(?=['\"/])", lambda quote: root + " + " + quote[1], content)
    else:
        # Lines of these files are paths, relative to the folder of the file.
        content = re.sub("(?m)^" + re.escape(BUILD) + "(?=/|$)", lambda _: up, content)
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)


def install(plan):
    say("Making a virtual environment")
    run(sys.executable, "-m", "venv", *(["--without-pip"] if plan.package == "uv" else []), ENV)
    if plan.files:
        say("Installing the requirements")
    for path in plan.files:
        pip("install", *plan.options, "-r", path)


def install_app(plan):
    if plan.package == "deps":
        say("Installing the app as a package")
        pip("install", "--no-deps", ".")
    elif plan.package == "editable":
        say("Installing the app as a package, as Poetry does (package-mode = false in pyproject.toml: not at all)")
        pip("install", "--no-deps", "-e", ".")
    elif plan.package == "whole":
        say("Installing the app as a package, with its requirements")
        pip("install", ".")
    elif plan.package == "uv":
        programs = tool("uv", "uv")
        say("Installing what uv.lock names")
        more = {"UV_DEFAULT_INDEX": os.environ["PIP_INDEX_URL"]} if os.environ.get("PIP_INDEX_URL") else {}
        more = {name: value for name, value in more.items() if not {"UV_DEFAULT_INDEX", "UV_INDEX_URL"} & set(os.environ)}
        run(
            os.path.join(programs, "uv"), "sync", "--frozen", "--no-dev", "--no-progress",
            "--python", os.path.join(ENV, "bin", "python"),
            UV_PROJECT_ENVIRONMENT=ENV, UV_CACHE_DIR=os.path.join(CACHE, "uv"), UV_LINK_MODE="copy",
            UV_PYTHON_DOWNLOADS="never", UV_NATIVE_TLS="true", UV_COMPILE_BYTECODE="1", **more,
        )


def main():
    os.chdir(BUILD)
    shutil.rmtree(ENV, ignore_errors=True)
    plan = choose()
    key = key_of(plan)
    kept = os.path.join(CACHE, "env-" + key)
    if plan.stable and os.path.isdir(kept):
        say("The requirements are unchanged: taking the environment from the cache")
        shutil.copytree(kept, ENV, symlinks=True)
    else:
        install(plan)
        relocate()
        if plan.stable:
            # Only the newest environment is kept.
            for old in glob.glob(os.path.join(CACHE, "env-*")):
                shutil.rmtree(old, ignore_errors=True)
            shutil.copytree(ENV, os.path.join(CACHE, "env-new"), symlinks=True)
            os.rename(os.path.join(CACHE, "env-new"), kept)
    install_app(plan)
    relocate()


main()
