import base64
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llava_pack.health.redaction import Redactor
from llava_pack.serve.access.key import Quota, new_key
from llava_pack.serve.access.scopes import SCOPES
from llava_pack.serve.access.sessions import Session, StartSecret

SECRETS = [
    "hf_AbCdEfGhIjKlMnOpQrStUvWxYz0123",
    "Authorization: Bearer dGhlIHRva2Vu",
    "http://127.0.0.1:7860/#token=s3cr3t-t0k3n",
    '{"token": "s3cr3t"}',
    "HTTPS_PROXY=http://anna:pa55w0rd@proxy:3128",
    "HTTPS_PROXY=http://anna:pa55/w0rd@x@proxy:3128",
    "NVIDIA_API_KEY=s3cr3t",
    "LLAVA_PACK_JOIN_KEY=s3cr3t llava-pack serve --join 127.0.0.1:29500",
    "LLAVA_PACK_ENGINE_KEY=s3cr3t",
    "LLAVA_PACK_PASSWORD=hunter2",
    "password=hunter2",
    '{"password": "hunter2", "n": 1}',
    "{'api_key': 'hunter2'}",
    "ghp_s3cr3ts3cr3ts3cr3ts3cr3t",
    "AKIAS3CR3TS3CR3TXX",
    "xoxb-s3cr3t-hunter2-s3cr3t",
    "eyJhbGciOiJI.s3cr3ts3cr3t.hunter2",
    "Cookie: session=s3cr3t; other=hunter2",
    "-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----",
    "-----BEGIN PRIVATE KEY-----\ncut off",
    "OPENAI sk-abcdefghijklmnopqrstu",
]
INSIDE = [
    "AbCdEf",
    "dGhlIH",
    "s3cr3t",
    "S3CR3T",
    "pa55",
    "w0rd",
    "hunter2",
    "MHcCAQ",
    "cut off",
    "abcdefghijkl",
]


@pytest.mark.parametrize("text", SECRETS)
def test_secrets_are_taken_out(text):
    redactor = Redactor({})
    said = redactor.text(f"before {text} after")
    assert not any(part in said for part in INSIDE), said
    assert redactor.counts["secret"] >= 1
    assert said.startswith("before ")


def test_our_own_secrets_are_taken_out_wherever_they_stand():
    start = StartSecret("s3cr3t")
    _, key = new_key("ann", scopes=SCOPES, quota=Quota(), created=0, expires=0)
    cookie = start.cookie(Session("0123456789ab", 1, 2))
    path = start.llava_key("0123456789ab")
    text = f"lost {key} and /llava/{path}/list_models with {start.cookie_name}={cookie}"
    said = Redactor({}).text(text)
    assert not any(secret in said for secret in (key, path, cookie)), said
    assert said.count("<secret") == 3


def test_pictures_and_prompts_are_taken_out():
    picture = base64.b64encode(os.urandom(600)).decode()
    redactor = Redactor({})
    said = redactor.text(
        f'{{"url": "data:image/png;base64,{picture}", "content": "who is \\"he\\"?"}}'
    )
    assert said == '{"url": "<picture 1>", "content": "<words 1>"}'
    assert redactor.text(picture) == "<picture 2>"


def test_names_and_addresses_are_taken_out_and_stay_told_apart():
    redactor = Redactor(
        {"host": ["gpu01.example", "gpu01"], "user": ["anna"], "home": ["/home/anna"]}
    )
    said = redactor.text(
        "gpu01 gpu01.example 10.1.2.3 10.1.2.4 10.1.2.3:22 fe80::1 anna /home/anna/x 00:1a:2b:3c:4d:5e"
    )
    assert said == (
        "<host 1> <host 2> <address 2> <address 3> <address 2>:22 <address 1> <user 1> <home 1>/x "
        "<serial 1>"
    )


@pytest.mark.parametrize(
    ("text", "private"),
    [
        ("HF_ENDPOINT=https://hub.bank.internal/hf", "bank"),
        ("looking at mirror.bank.corp for it", "bank"),
        ("asked by anna.berg@bank.example", "anna"),
        ("IBAN DE89 3704 0044 0532 0130 00", "3704"),
        ("cannot read /home/berta/models", "berta"),
        ("Request(prompt='what does berta earn?', images=[])", "earn"),
        ("{'role': 'user', 'content': \"berta's cancer\"}", "cancer"),
    ],
)
def test_names_of_others_and_what_was_asked_are_taken_out(text, private):
    assert private not in Redactor({}).text(text)


def test_the_name_of_a_setting_is_no_secret_and_its_value_is_no_longer_told():
    assert Redactor({}).text("HF_ENDPOINT=https://hub.bank.internal") == (
        "HF_ENDPOINT=https://<host 1>"
    )


def test_a_host_is_known_by_its_field_too():
    assert (
        Redactor({}).text('{"host": "vm", "arch": "x86_64"}')
        == '{"host": "<host 1>", "arch": "x86_64"}'
    )


@pytest.mark.parametrize(
    "text",
    [
        "listening on 127.0.0.1:7860 and [::1]:7860, 0.0.0.0",
        "nvidia-cublas-cu12==12.8.4.1 and nvidia_cublas_cu12-12.8.4.1-py3-none.whl",
        "at 12:34:56, driver 580.65.06",
        "a" * 64,
        "model/llava-v1.5-7b/model-00001-of-00002.safetensors",
    ],
)
def test_what_support_needs_stays(text):
    redactor = Redactor({"host": ["gpu01"]})
    assert redactor.text(text) == text
    assert not redactor.counts


@given(st.text(), st.lists(st.text(min_size=2), max_size=3))
def test_a_text_without_private_values_needs_no_second_pass(text, names):
    redactor = Redactor({"host": names})
    once = redactor.text(text)
    assert Redactor({}).text(once) == once
