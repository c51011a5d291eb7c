"""Whatever comes as a body gets a status and one line, and the server goes on."""

import io

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers.image_bytes import encode
from helpers.serving import client_of, noise_png, png, service_of

REFUSALS = {408, 413, 415, 422, 429}
WHOLE = [
    noise_png(),
    *(encode(Image.open(io.BytesIO(noise_png())), kind) for kind in ("JPEG", "TIFF", "GIF", "WEBP", "BMP")),
]
BOUNDARY = "xx"
PARAMETERS = [f"boundary={BOUNDARY}", "boundary=", "boundary=\u00e9", "", "boundary=x; charset=\u00ff"]

many = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@pytest.fixture(scope="module")
def served():
    service = service_of(max_body=100_000, max_images=4)
    with client_of(service) as client:
        yield client, service


def check(served, answer):
    """A known status; an error is one line; nothing is held, and a good image is still scored."""
    client, service = served
    assert answer.status_code == 200 or answer.status_code in REFUSALS
    if answer.status_code != 200:
        line = answer.json()["error"]
        assert line
        assert line.isprintable()
    assert (service.places.images, service.places.bytes) == (0, 0)
    assert client.post("/v1/predict", content=png()).status_code == 200


@given(st.binary(max_size=400))
@many
def test_random_bytes(served, body):
    check(served, served[0].post("/v1/predict?map=png16", content=body))


@given(st.sampled_from(WHOLE), st.data())
@many
def test_images_that_are_cut_or_changed(served, whole, data):
    content = bytearray(whole[: data.draw(st.integers(1, len(whole)))])
    for _ in range(data.draw(st.integers(0, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    check(served, served[0].post("/v1/predict?overlay=png", content=bytes(content)))


@given(
    st.lists(
        st.sampled_from(
            [
                f"--{BOUNDARY}",
                f"--{BOUNDARY}--",
                "--",
                "\r\n",
                "\n",
                'Content-Disposition: form-data; name="file"; filename="a.png"',
                'Content-Disposition: form-data; name="file"',
                'Content-Disposition: form-data; name="model"',
                'Content-Disposition: form-data; name="\u00ff"; filename="\r',
                "Content-Disposition: form-data",
                "Content-Type: image/png",
                "Content-Transfer-Encoding: base64",
                ":" * 50,
                "\u0000",
                png().decode("latin-1"),
                "x" * 5000,
            ]
        ),
        max_size=30,
    ),
    st.sampled_from(
        [f"boundary={BOUNDARY}", "boundary=", "boundary=\u00e9", "", "boundary=x; charset=\u00ff"]
    ),
)
@many
def test_forms_that_are_broken(served, parts, parameters):
    body = "".join(parts).encode("latin-1")
    headers = {"Content-Type": f"multipart/form-data; {parameters}".encode("latin-1")}
    check(served, served[0].post("/v1/predict", content=body, headers=headers))


@given(st.binary(max_size=300), st.text(max_size=40), st.text(max_size=20))
@many
def test_forms_with_any_content_and_names(served, content, name, model):
    answer = served[0].post(
        "/v1/predict", files=[("file", (name, content)), ("file", (name, png()))], data={"model": model}
    )
    assert answer.status_code in {200, 404, 422}
    if answer.status_code == 200:
        assert answer.json()["results"][1]["error"] is None
        assert all(row["name"].isprintable() for row in answer.json()["results"])


@given(st.text(max_size=30), st.text(max_size=30))
@many
def test_any_query(served, name, value):
    answer = served[0].post("/v1/predict", params={"model": name, "map": value, name: value}, content=png())
    assert answer.status_code in {200, 404, 422}
