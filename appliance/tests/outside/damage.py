"""Shows that deploy/verify-log finds what is wrong: takes a sound log, changes it in memory in many places, and wants
every change found.

    damage.py --log DIRECTORY --key log.pem [--certificate FILE...] --rounds N [--seed S]

Prints one JSON object: how many changes were made, and those that were not found. A change is one flipped bit of
one file at a random place, a file taken away, or a file cut short. Also made, of a log of its own because only the
log's key can: a history that forks from one that was shown before, and one that has shrunk.
"""

import argparse
import datetime
import ipaddress
import json
import pathlib
import random
import tempfile

import leaves
import make_log
from make_log import verify_log


class Overlay:
    """Files in memory over a directory"""

    def __init__(self, files):
        self.files = dict(files)

    def read(self, path):
        return self.files.get(path)


def read_all(root):
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and not any(part.startswith(".") for part in path.relative_to(root).parts)
    }


def relevant(files, size):
    """The files a checkpoint of this size stands for: partial tiles of other widths are leftovers"""
    kept = {}
    for path, content in files.items():
        head, partial, width = path.partition(".p/")
        if not partial:
            kept[path] = content
            continue
        _, kind, *index = head.split("/")
        number = int("".join(part.lstrip("x") for part in index))
        level = 0 if kind == "data" else int(kind)
        if (size >> (8 * level)) - number * verify_log.TILE_WIDTH == int(width):
            kept[path] = content
    return kept


def errors(files, key, certificates):
    check = verify_log.Check(Overlay(files), key)
    check.run()
    for name, octets in certificates:
        check.trying(name, check.certificate, name, verify_log.certificates_in(octets))
    return check.errors


def changes(files, rounds, chance):
    """Changed copies of the files, each with what was changed"""
    paths = sorted(path for path, content in files.items() if content)
    for path in paths:
        without = dict(files)
        del without[path]
        yield f"{path} taken away", without
        shorter = dict(files)
        shorter[path] = files[path][:-1]
        yield f"{path} cut short", shorter
    for _ in range(rounds):
        # The file by chance and not by its size: small ones count as much.
        path = chance.choice(paths)
        at, bit = chance.randrange(len(files[path])), chance.randrange(8)
        content = bytearray(files[path])
        content[at] ^= 1 << bit
        changed = dict(files)
        changed[path] = bytes(content)
        yield f"{path} octet {at} bit {bit}", changed


def forked():
    """Two histories under one key: what is found when one is read after the other was shown"""
    now = datetime.datetime.now(datetime.timezone.utc).replace(microsecond=0)
    inside = ipaddress.ip_address("fd77::1")
    root = leaves.authority("root", None, now, 1)
    issuing = leaves.authority("issuing", root, now, 0, leaves.constraints(inside))
    notes, files, key = {}, {}, None
    with tempfile.TemporaryDirectory() as directory:
        for name, entries in (("short", 3), ("long", 7), ("other", 7)):
            log = make_log.Log(pathlib.Path(directory) / name, issuing, root.certificate, make_log.milliseconds(now))
            key = log.take_key(key)
            # The first three entries of the long one are those of the short one; the other shares none.
            shared = files.get("short") if name == "long" else None
            log.fill(entries, now, inside, issuing, shared)
            log.publish()
            notes[name], files[name] = log.note, log
        public = verify_log.LogKey(make_log.public_pem(key), None)
        found = {}
        for what, shown, read in (
            ("continued", "short", "long"), ("forked", "short", "other"), ("differs", "long", "other"),
            ("shrunk", "long", "short"),
        ):
            check = verify_log.Check(verify_log.DirectoryFiles(files[read].out / "log"), public)
            check.run()
            check.trying("earlier", check.earlier, notes[shown])
            found[what] = [error["problem"] for error in check.errors]
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--log", required=True, type=pathlib.Path)
    parser.add_argument("--key", required=True, type=pathlib.Path)
    parser.add_argument("--certificate", action="append", default=[], type=pathlib.Path)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    key = verify_log.LogKey(options.key.read_bytes(), None)
    certificates = [(str(name), name.read_bytes()) for name in options.certificate]
    files = read_all(options.log)
    head = verify_log.verify_checkpoint(files["checkpoint"], key)
    files = relevant(files, head.size)
    sound = errors(files, key, certificates)
    made, missed = 0, []
    if not sound:
        for what, changed in changes(files, options.rounds, random.Random(options.seed)):
            made += 1
            if not errors(changed, key, certificates):
                missed.append(what)
    result = {"entries": head.size, "files": len(files), "sound": sound, "changes": made, "missed": missed}
    print(json.dumps({**result, "histories": forked()}))


if __name__ == "__main__":
    main()
