"""A scheduler in small: starts a rental by the short form, sends the request again, ends it.

Needs `requests` and `PyJWT`; what it asks comes by its environment. Ends with an error when an
answer is not what the contract says.
"""

import os
import time
import uuid

import jwt
import requests

URL = os.environ["AGENT_URL"]
AGENT_ID = os.environ["AGENT_ID"]
ISSUER = os.environ["ISSUER"]
IMAGE = os.environ["IMAGE"]
GPU = os.environ.get("GPU_UUID")

with open(os.environ["SECRET_FILE"], "rb") as file:
    SECRET = file.read().removesuffix(b"\n")


def headers(scope, **more):
    """A new token for each request: one that changes something is taken once."""
    now = int(time.time())
    claims = {
        "iss": ISSUER,
        "aud": AGENT_ID,
        "sub": "python-scheduler",
        "iat": now,
        "exp": now + 60,
        "jti": str(uuid.uuid4()),
        "scope": scope,
    }
    token = jwt.encode(claims, SECRET, algorithm="HS256")
    return {"Authorization": f"Bearer {token}", **more}


def start(key):
    body = {"image_name": IMAGE, "user_ssh_key": "ssh-ed25519 AAAA renter", "memory_limit_mb": 16}
    if GPU:
        body["gpu_uuid"] = GPU
    more = {"Idempotency-Key": key}
    return requests.post(
        f"{URL}/start_instance", json=body, headers=headers("instances:write", **more), timeout=60
    )


def main():
    key = str(uuid.uuid4())
    first = start(key)
    assert first.status_code == 200, first.text
    first = first.json()
    assert first["message"] == "Instance started successfully", first

    again = start(key)
    assert again.status_code == 200, again.text
    assert again.json()["container_id"] == first["container_id"], "a retry made a second rental"

    listed = requests.get(f"{URL}/instances", headers=headers("instances:read"), timeout=10).json()
    assert [one["id"] for one in listed["instances"]] == [first["instance_id"]], listed

    used = headers("instances:write")
    body = {"container_id": first["container_id"]}
    ended = requests.post(f"{URL}/terminate_instance", json=body, headers=used, timeout=60)
    assert ended.status_code == 200, ended.text
    assert ended.json()["message"] == "Instance terminated successfully", ended.text

    replayed = requests.post(f"{URL}/terminate_instance", json=body, headers=used, timeout=60)
    assert replayed.status_code == 401, replayed.text
    nobody = requests.post(f"{URL}/start_instance", json={}, timeout=10)
    assert nobody.status_code == 401, nobody.text
    print("all answers are as they have to be")


main()
