#!/usr/bin/env python3
"""Judges what berth-bench wrote. Each command ends with status 0 and silence, or 1 and the reason.

  results.py can-validate               whether there is a module for JSON Schema
  results.py json FILE [SCHEMA]         strict JSON, intervals in order, and valid if a schema is given
  results.py agree JSON CSV             the same rows in both
  results.py variants JSON CASE LIST    rows name variants of the case, as `berth-bench list` has them,
                                        and perhaps what was different: "again", "alone"
  results.py has JSON PATH VALUE        the member, such as 0.case or interrupted, has that JSON value
  results.py page HTML [PLOTS]          well-formed, pictures and all, and so many of those

SPDX-License-Identifier: MIT
"""
import base64
import csv
import html.parser
import json
import math
import sys
import xml.etree.ElementTree


class Fault(Exception):
    pass


def refuse_constant(text):
    raise Fault(f"{text} is no JSON")


def unique_members(pairs):
    members = dict(pairs)
    if len(members) != len(pairs):
        raise Fault(f"a member comes twice: {[name for name, _ in pairs]}")
    return members


def load(path):
    with open(path, encoding="utf-8", errors="strict") as file:
        return json.load(
            file, parse_constant=refuse_constant, object_pairs_hook=unique_members
        )


def reports_of(document):
    return document if isinstance(document, list) else [document]


def check_interval(members, name, where):
    low, high = f"{name}_low" in members, f"{name}_high" in members
    if low != high:
        raise Fault(f"{where}: half an interval: {name}")
    if not low:
        return
    values = [members[f"{name}_low"], members[name], members[f"{name}_high"]]
    if None not in values and values != sorted(values):
        raise Fault(f"{where}: {name} is not in its interval: {values}")


def columns_of(row):
    """The columns, without the bounds of their intervals."""
    return [
        name
        for name in row
        if name not in ("table", "variant")
        and not any(
            name.endswith(end) and name[: -len(end)] in row for end in ("_low", "_high")
        )
    ]


def command_can_validate():
    import jsonschema  # pylint: disable=unused-import,import-outside-toplevel

    if not hasattr(jsonschema, "Draft202012Validator"):
        raise Fault("jsonschema is too old")


def command_json(path, schema=None):
    document = load(path)
    for report in reports_of(document):
        for row in report["rows"]:
            for name in columns_of(row):
                check_interval(row, name, row["variant"])
        for control in report["controls"]:
            check_interval(control, "ratio", control["name"])
        for figure in report["figures"]:
            check_interval(figure, "value", figure["name"])
    if schema is None:
        return
    import jsonschema  # pylint: disable=import-outside-toplevel

    rules = load(schema)
    jsonschema.Draft202012Validator.check_schema(rules)
    errors = jsonschema.Draft202012Validator(rules).iter_errors(document)
    error = jsonschema.exceptions.best_match(errors)
    if error is not None:
        at = "/".join(str(part) for part in error.absolute_path)
        raise Fault(f"{at}: {error.message}")


def rows_of_csv(path):
    with open(path, encoding="utf-8", errors="strict", newline="") as file:
        text = file.read()
    rows = []
    head = None
    for record in csv.reader(text.splitlines(), strict=True):
        if not record:
            head = None
        elif head is None:
            if record[:2] != ["table", "variant"]:
                raise Fault(f"this is no head: {record}")
            head = record
        elif len(record) != len(head):
            raise Fault(f"{len(record)} fields, {len(head)} in the head: {record}")
        else:
            rows.append(dict(zip(head, record)))
    return rows


def check_field(row, name, value, text):
    if value is None:
        if text != "":
            raise Fault(f"{row}: {name} is null in JSON, {text} in CSV")
    elif float(text) != value or not math.isfinite(float(text)):
        raise Fault(f"{row}: {name} is {value} in JSON, {text} in CSV")


def command_agree(path_json, path_csv):
    rows = [row for report in reports_of(load(path_json)) for row in report["rows"]]
    others = rows_of_csv(path_csv)
    if len(rows) != len(others):
        raise Fault(f"{len(rows)} rows in JSON, {len(others)} in CSV")
    for row, other in zip(rows, others):
        for name in ("table", "variant"):
            if row[name] != other[name]:
                raise Fault(f"{name}: {row[name]} in JSON, {other[name]} in CSV")
        for name in columns_of(row):
            for which in (name, f"{name}_low", f"{name}_high"):
                check_field(row["variant"], which, row.get(which), other.pop(which))
        if len(other) != 2:
            raise Fault(f"{row['variant']}: only in CSV: {list(other)}")


def variants_of(path, case):
    """Of `berth-bench list`: a case begins its line, its variants follow on lines moved in."""
    variants = []
    inside = False
    with open(path, encoding="utf-8") as file:
        for line in file:
            if line.startswith(" "):
                variants += line.split() if inside else []
            else:
                inside = line.split()[0] == case
    return variants


def command_variants(path, case, path_list):
    known = variants_of(path_list, case)
    for report in reports_of(load(path)):
        if report["case"] != case:
            raise Fault(f"this is {report['case']}")
        if not report["rows"]:
            raise Fault("there are no rows")
        for row in report["rows"]:
            name = row["variant"]
            if known and name.split(" ")[0] not in known:
                raise Fault(f"{name} is none of: {' '.join(known)}")


def command_has(path, where, wanted):
    value = load(path)
    for part in where.split("."):
        value = value[int(part)] if isinstance(value, list) else value[part]
    if value != json.loads(wanted):
        raise Fault(f"{where} is {json.dumps(value)}, not {wanted}")


class Page(html.parser.HTMLParser):
    """Every element is closed in its turn, no identity comes twice, no link leads nowhere."""

    EMPTY = ["meta", "img", "br"]
    ELEMENTS = EMPTY + (
        "html head title style body h1 h2 h3 p nav a section figure div table tr th td small ul li "
        "details summary pre"
    ).split()

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.open = []
        self.identities = []
        self.links = []
        self.pictures = 0

    def handle_starttag(self, tag, attrs):
        if tag not in self.ELEMENTS:
            raise Fault(f"an element {tag}")
        if tag not in self.EMPTY:
            self.open.append(tag)
        members = dict(attrs)
        if any(name.startswith("on") for name in members):
            raise Fault(f"{tag} has a script")
        if "id" in members:
            self.identities.append(members["id"])
        if tag == "a":
            self.links.append(members["href"])
        if tag == "img":
            self.check_picture(members["src"])

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            raise Fault(f"{tag} ends where it did not begin")

    def check_picture(self, source):
        head, data = source.split(",", 1)
        if head != "data:image/svg+xml;base64":
            raise Fault(f"a picture from elsewhere: {source[:80]}")
        root = xml.etree.ElementTree.fromstring(base64.b64decode(data, validate=True))
        if not root.tag.endswith("}svg"):
            raise Fault(f"a picture that is a {root.tag}")
        self.pictures += 1


def command_page(path, pictures=None):
    page = Page()
    with open(path, encoding="utf-8", errors="strict") as file:
        text = file.read()
    if not text.startswith("<!DOCTYPE html>"):
        raise Fault("the page has no document type")
    page.feed(text)
    page.close()
    if page.open:
        raise Fault(f"never closed: {page.open}")
    if len(set(page.identities)) != len(page.identities):
        raise Fault(f"an identity comes twice: {page.identities}")
    for link in page.links:
        if not link.startswith("#"):
            raise Fault(f"a link leads away: {link}")
    if pictures is not None and page.pictures != int(pictures):
        raise Fault(f"{page.pictures} pictures, not {pictures}")


COMMANDS = {
    "can-validate": command_can_validate,
    "json": command_json,
    "agree": command_agree,
    "variants": command_variants,
    "has": command_has,
    "page": command_page,
}


def main(arguments):
    try:
        COMMANDS[arguments[0]](*arguments[1:])
    except (Fault, OSError, ValueError, LookupError, ImportError, csv.Error) as fault:
        print(f"{' '.join(arguments)}: {type(fault).__name__}: {fault}")
        return 1
    except xml.etree.ElementTree.ParseError as fault:
        print(f"{' '.join(arguments)}: not XML: {fault}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
