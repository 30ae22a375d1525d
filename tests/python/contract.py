"""What schemathesis needs for the agent: a new token for each request, and what no answer may be."""

import os
import time
import uuid

import jwt
import schemathesis

with open(os.environ["SECRET_FILE"], "rb") as file:
    SECRET = file.read().removesuffix(b"\n")


@schemathesis.auth()
class Token:
    """A token is taken once for what changes something, so that each request has its own."""

    def get(self, case, context):
        claims = {
            "iss": os.environ["ISSUER"],
            "aud": os.environ["AGENT_ID"],
            "sub": "schemathesis",
            "exp": int(time.time()) + 60,
            "jti": str(uuid.uuid4()),
            "scope": "instances:read instances:write events:read",
        }
        return jwt.encode(claims, SECRET, algorithm="HS256")

    def set(self, case, data, context):
        case.headers = case.headers or {}
        case.headers["Authorization"] = f"Bearer {data}"


@schemathesis.check
def no_fault_of_the_agent(context, response, case):
    """A documented 5xx says what is wrong with the host; `internal` is a defect."""
    if response.status_code >= 500 and "code" in response.json():
        assert response.json()["code"] != "internal", response.text
