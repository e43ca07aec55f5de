"""A second implementation of receipts (docs/protocol.md, "Receipts"), by the package `cryptography` alone.

receipts.py VECTORS                checks docs/vectors/receipts.json
receipts.py JWKS RECEIPT [OUTPUT]  verifies one receipt, and that OUTPUT is the answer; exits with 1 where it is not
"""

import base64
import hashlib
import json
import sys

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


def canonical(value):
    # RFC 8785 for what receipts have: ASCII member names, text, whole numbers and null.
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def signed_text(receipt):
    return canonical({name: value for name, value in receipt.items() if name != "signature"})


def is_signed(receipt, jwks):
    found = [key for key in jwks["keys"] if key["kid"] == receipt["key_id"]]
    if len(found) != 1:
        return False
    key = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(found[0]["x"] + "="))
    try:
        key.verify(bytes.fromhex(receipt["signature"]), signed_text(receipt))
    except InvalidSignature:
        return False
    return True


def read(path):
    with open(path, "rb") as file:
        return file.read()


def check_vectors(vectors):
    jwks, previous = vectors["jwks"], None
    for case in vectors["valid"]:
        receipt = case["receipt"]
        assert signed_text(receipt).decode() == case["signed_text"], case["name"]
        assert digest(canonical(receipt)) == case["hash"], case["name"]
        assert receipt["previous"] == previous and is_signed(receipt, jwks), case["name"]
        assert receipt["request_hash"] == digest(case["request"].encode()), case["name"]
        assert receipt["output_hash"] == digest(case["output"].encode()), case["name"]
        previous = case["hash"]
    refused = 0
    for case in vectors["invalid"]:
        if case["error"] in ("altered", "altered_key_id", "wrong_key", "unknown_key"):
            assert not is_signed(json.loads(case["json"]), jwks), case["name"]
            refused += 1
    assert refused >= 8, refused
    for case in vectors["chains"]:
        receipts = case["receipts"]
        assert all(is_signed(receipt, jwks) for receipt in receipts), case["name"]
        pairs = list(zip(receipts, receipts[1:]))
        whole = all(
            after["sequence"] == before["sequence"] + 1 and after["previous"] == digest(canonical(before))
            for before, after in pairs
        )
        assert whole == (not case["errors"]), case["name"]
    print(f"{len(vectors['valid'])} valid, {refused} refused, {len(vectors['chains'])} chains: all checks passed")


if len(sys.argv) == 2:
    check_vectors(json.loads(read(sys.argv[1])))
else:
    jwks, receipt = json.loads(read(sys.argv[1])), json.loads(read(sys.argv[2]))
    if not is_signed(receipt, jwks):
        sys.exit("the signature is wrong")
    if len(sys.argv) > 3 and digest(read(sys.argv[3])) != receipt["output_hash"]:
        sys.exit("the output is another")
    print("all checks passed")
