"""A service for the demo: notebooks.

An instance is a SQLite file with a table of notes. Binding an app gives it NOTES_URL and NOTES_TOKEN, with which it
reads and writes the notes over HTTP; unbinding takes the token back.

Below /resources is the provisioning API, for Tancho: it needs the user and password of the manifest. Below
/notebooks are the notes, for apps. Every call is written to calls.log, without secrets.
"""

import argparse
import hmac
import json
import os
import re
import secrets
import sqlite3
import time
from contextlib import closing
from pathlib import Path

from flask import Flask, Response, abort, request
from werkzeug.serving import make_server

SCHEMA = """
create table note (id integer primary key, text text not null);
create table bind (app text primary key, token text not null);
create table unit (host text primary key);
create table limits (notes integer not null);
"""
PLANS = {"small": 100, "big": 10_000}
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,62}")

app = Flask(__name__)
data = Path("data")
username, password = "notes", ""


def file_of(name):
    if not NAME.fullmatch(name):
        abort(Response(f"{name} is no name for a notebook.\n", 400))
    return data / f"{name}.sqlite"


def open_notebook(name):
    """The notebook's database; commits at the end of `with`. 404 if there is none."""
    path = file_of(name)
    if not path.exists():
        abort(Response(f"There is no notebook {name}.\n", 404))
    return sqlite3.connect(path, timeout=10, isolation_level=None)


def app_name():
    return request.form.get("app-name") or request.form.get("app-host", "")


@app.before_request
def only_tancho():
    if not request.path.startswith("/resources"):
        return None
    auth = request.authorization
    if auth and auth.type == "basic":
        user_fits = hmac.compare_digest(auth.username or "", username)
        if hmac.compare_digest(auth.password or "", password) and user_fits:
            return None
    return Response("Wrong user or password.\n", 401, {"WWW-Authenticate": 'Basic realm="notes"'})


@app.after_request
def log(response):
    call = {"at": round(time.time(), 3), "method": request.method, "path": request.path, "status": response.status_code}
    if request.path.startswith("/resources"):
        call["form"] = request.form.to_dict(flat=False)
    with open(data / "calls.log", "a", encoding="utf-8") as file:
        file.write(json.dumps(call) + "\n")
    return response


# The provisioning API.


@app.get("/resources/plans")
def plans():
    return [{"name": plan, "description": f"{most} notes"} for plan, most in PLANS.items()]


@app.get("/resources")
def list_instances():
    return sorted(path.stem for path in data.glob("*.sqlite"))


@app.post("/resources")
def add_instance():
    name = request.form.get("name", "")
    plan = request.form.get("plan") or "small"
    if plan not in PLANS:
        return f"There is no plan {plan}.\n", 400
    path = file_of(name)
    if path.exists():
        return f"There is a notebook {name} already.\n", 409
    # Created under a temporary name, so that an existing notebook is complete.
    aside = path.with_suffix(f".{secrets.token_hex(4)}.new")
    with closing(sqlite3.connect(aside)) as db:
        db.executescript(SCHEMA)
        db.execute("insert into limits values (?)", (PLANS[plan],))
        db.execute("insert into note (text) values (?)", (f"This notebook is named {name}.",))
        db.commit()
    aside.rename(path)
    return "", 201


@app.put("/resources/<name>")
def update_instance(name):
    open_notebook(name).close()
    return "", 200


@app.delete("/resources/<name>")
def remove_instance(name):
    open_notebook(name).close()
    file_of(name).unlink(missing_ok=True)
    return "", 200


@app.get("/resources/<name>")
def info(name):
    with closing(open_notebook(name)) as db:
        (notes,) = db.execute("select count(*) from note").fetchone()
    return [{"label": "Notes", "value": str(notes)}]


@app.get("/resources/<name>/status")
def status(name):
    open_notebook(name).close()
    return "", 204


@app.post("/resources/<name>/bind-app")
def bind_app(name):
    # A repeated call returns the same response.
    with closing(open_notebook(name)) as db:
        db.execute("insert or ignore into bind values (?, ?)", (app_name(), secrets.token_hex(16)))
        (token,) = db.execute("select token from bind where app = ?", (app_name(),)).fetchone()
    return {"NOTES_URL": f"{request.host_url}notebooks/{name}", "NOTES_TOKEN": token}, 201


@app.delete("/resources/<name>/bind-app")
def unbind_app(name):
    with closing(open_notebook(name)) as db:
        db.execute("delete from bind where app = ?", (app_name(),))
    return "", 200


@app.route("/resources/<name>/bind", methods=["POST", "DELETE"])
def access_control(name):
    host = request.form.get("unit-host", "")
    with closing(open_notebook(name)) as db:
        if request.method == "POST":
            db.execute("insert or ignore into unit values (?)", (host,))
            return "", 201
        db.execute("delete from unit where host = ?", (host,))
    return "", 200


# The notes.


@app.route("/notebooks/<name>", methods=["GET", "POST"])
def notes(name):
    scheme, _, token = request.headers.get("Authorization", "").partition(" ")
    with closing(open_notebook(name)) as db:
        known = db.execute("select 1 from bind where token = ?", (token,)).fetchone()
        if scheme.lower() != "bearer" or not known:
            return "This token does not open the notebook.\n", 403
        if request.method == "POST":
            (room,) = db.execute("select notes - (select count(*) from note) from limits").fetchone()
            if room <= 0:
                return "The notebook is full.\n", 409
            db.execute("insert into note (text) values (?)", (request.form.get("text", "")[:1000],))
        return [text for (text,) in db.execute("select text from note order by id")]


def main():
    global data, password
    parser = argparse.ArgumentParser(description="The demo's service; NOTES_PASSWORD is its password.")
    parser.add_argument("--data", type=Path, default=data)
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    options = parser.parse_args()
    data = options.data
    data.mkdir(parents=True, exist_ok=True)
    password = os.environ["NOTES_PASSWORD"]
    server = make_server("127.0.0.1", options.port, app, threaded=True)
    print(f"notes ready url=http://127.0.0.1:{server.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
