"""The files under schemas/, read by an implementation that shares no line with the agent's.

Every schema is one of draft 2020-12, accepts its examples, and refuses them once they are spoilt;
the example configuration is one of its schema; what asyncapi.json names is there. With the path of
AsyncAPI's own schema as its argument: asyncapi.json is one of it, and is none once it is spoilt.
"""

import copy
import json
import pathlib
import sys
import tomllib

from jsonschema import Draft7Validator, Draft202012Validator

ROOT = pathlib.Path(__file__).resolve().parents[2]
SCHEMAS = ROOT / "schemas"
# Documents that put the schemas to use, and are none.
DOCUMENTS = {"asyncapi", "openapi"}


def load(path):
    return json.loads(path.read_text(encoding="utf-8"))


def name_of(path, below):
    return path.relative_to(below).with_suffix("").as_posix()


def spoilt(example):
    """The example with one of its members of a type that no schema here has for it, each in turn."""
    for name, value in example.items():
        changed = copy.deepcopy(example)
        changed[name] = [[value]] if not isinstance(value, list) else {"not": "a list"}
        yield name, changed


def check_examples(validators, faults):
    seen = set()
    for path in sorted((SCHEMAS / "examples").rglob("*.json")):
        name = name_of(path, SCHEMAS / "examples").split(".")[0]
        if name not in validators:
            faults.append(f"{path}: there is no schema {name}")
            continue
        seen.add(name)
        example = load(path)
        for error in validators[name].iter_errors(example):
            faults.append(f"{path}: {error.json_path}: {error.message:.200}")
        for member, changed in spoilt(example):
            # These may be anything.
            if member in ("detail", "result"):
                continue
            if validators[name].is_valid(changed):
                faults.append(f"{path}: accepted with a spoilt {member}")
    for name in validators.keys() - seen - {"config"}:
        faults.append(f"{name}: there is no example")
    return len(seen)


def check_config(validator, faults):
    path = ROOT / "docs" / "config.example.toml"
    config = tomllib.loads(path.read_text(encoding="utf-8"))
    for error in validator.iter_errors(config):
        faults.append(f"{path}: {error.json_path}: {error.message:.200}")
    for section in config:
        changed = copy.deepcopy(config)
        changed[section] = "no section"
        if validator.is_valid(changed):
            faults.append(f"{path}: accepted with a spoilt {section}")


def check_references(document, at, faults):
    if isinstance(document, dict):
        reference = document.get("$ref", "#")
        if not reference.startswith("#") and not (SCHEMAS / reference).is_file():
            faults.append(f"asyncapi.json: {at}: {reference} is not there")
        for name, inner in document.items():
            check_references(inner, f"{at}/{name}", faults)
    elif isinstance(document, list):
        for index, inner in enumerate(document):
            check_references(inner, f"{at}/{index}", faults)


def check_asyncapi(schema, faults):
    validator = Draft7Validator(load(pathlib.Path(schema)))
    document = load(SCHEMAS / "asyncapi.json")
    for error in validator.iter_errors(document):
        faults.append(f"asyncapi.json: {error.json_path}: {error.message:.200}")
    for section in ("info", "channels", "operations", "components"):
        changed = copy.deepcopy(document)
        changed[section] = {"spoilt": 1}
        if validator.is_valid(changed):
            faults.append(f"asyncapi.json: accepted with a spoilt {section}")


def main():
    faults, validators = [], {}
    for path in sorted(SCHEMAS.rglob("*.json")):
        name = name_of(path, SCHEMAS)
        if name.startswith("examples/") or name in DOCUMENTS:
            continue
        schema = load(path)
        Draft202012Validator.check_schema(schema)
        validators[name] = Draft202012Validator(schema)
    examples = check_examples(validators, faults)
    check_config(validators["config"], faults)
    check_references(load(SCHEMAS / "asyncapi.json"), "", faults)
    for schema in sys.argv[1:]:
        check_asyncapi(schema, faults)
    for fault in faults:
        print(fault, file=sys.stderr)
    print(f"{len(validators)} schemas, {examples} of them with examples: {len(faults)} faults")
    return 1 if faults or examples < 10 else 0


if __name__ == "__main__":
    sys.exit(main())
