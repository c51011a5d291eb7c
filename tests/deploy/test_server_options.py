"""Options of a server, and what it refuses before it listens."""

import pytest
from typer.testing import CliRunner

import zsad
from helpers.serving import Brightness
from zsad.cli import app
from zsad.cli.serve import bytes_of, named_bundles
from zsad.deploy.server.describing import describe
from zsad.deploy.server.models import Models
from zsad.deploy.server.options import ServeOptions, is_loopback
from zsad.errors import ConfigError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost", "app.localhost."])
def test_addresses_of_this_machine_need_no_token(host):
    assert is_loopback(host)
    ServeOptions(host=host)


@pytest.mark.parametrize(
    "host", ["0.0.0.0", "::", "192.168.1.5", "example.com", "localhost.example.com", "127.0.0.1.nip.io"]
)
def test_every_other_address_needs_one(host):
    assert not is_loopback(host)
    with pytest.raises(ConfigError, match=r"needs a token: set ZSAD_SERVE_TOKEN or type .*--token"):
        ServeOptions(host=host)
    ServeOptions(host=host, token="t")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"token": "two words"}, "visible ASCII"),
        ({"token": ""}, "visible ASCII"),
        ({"token": "\u00e4"}, "visible ASCII"),
        ({"tls_cert": __file__}, "--tls-key is missing"),
        ({"tls_key": __file__}, "--tls-cert is missing"),
        ({"tls_cert": "no.pem", "tls_key": __file__}, "no such file"),
        ({"cors": ("line.example",)}, "--cors https://line.example"),
        ({"cors": ("https://line.example/page",)}, "without path"),
        ({"max_images": 300}, "never fits"),
        ({"max_body": 2**30}, "never fits"),
        ({"host": " "}, "host is empty"),
    ],
)
def test_impossible_options_say_what_to_type(options, words):
    with pytest.raises(ConfigError, match=words):
        ServeOptions(**options)


def test_the_token_is_not_shown():
    assert "secret" not in repr(ServeOptions(token="secret"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prot": 1}, "did you mean 'port'"),
        ({"port": 70_000}, "at most 65535"),
        ({"timeout": 0}, "above 0"),
        ({"max_images": 0}, "at least 1"),
    ],
)
def test_serve_checks_options_before_anything_else(options, words):
    with pytest.raises(ConfigError, match=words):
        zsad.serve(Brightness(), **options)


def test_serve_takes_models_and_nothing_else():
    with pytest.raises(ConfigError, match="serve takes a detector"):
        zsad.serve(3)
    with pytest.raises(ConfigError, match="no model to serve"):
        zsad.serve({})


class Joint(Brightness):
    scores_jointly = True


def test_a_method_that_compares_a_batch_scores_each_image_by_itself():
    models = Models({"a": Joint(), "b": Brightness()}, max_batch=8)
    models.load()
    assert [model.max_batch for model in models.all()] == [1, 8]
    assert "scored by itself" in describe(models.find("a"))["warnings"][0]
    assert models.replace(models.find("a"), Brightness()).max_batch == 8


def test_a_method_that_cannot_score_one_image_is_refused(make_small_clip):
    musc = zsad.load("musc", make_small_clip(), device="cpu")
    with pytest.raises(ConfigError, match="musc compares images with each other"):
        Models({"a": musc}).load()


@pytest.mark.parametrize(("side", "most"), [(240, 32), (320, 32), (518, 12), (2000, 1), (None, 32)])
def test_the_batch_suits_the_networks_input(side, most):
    model = Brightness()
    model.image_size = side
    models = Models({"a": model})
    models.load()
    assert models.find("a").max_batch == most


def refused(*words):
    result = CliRunner().invoke(app, ["serve", *words])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    return line


def test_the_command_refuses_in_one_line():
    assert "--token" in refused("--host", "0.0.0.0")
    assert "--method, --class-name" in refused("--bundle", "x", "--method", "winclip", "-c", "screw")
    twice = refused("--bundle", "a=x", "--bundle", "a=y")
    assert twice.endswith("two bundles are called 'a': name them, as in --bundle left=y")
    assert "such as 20MB" in refused("--max-body", "many")


def test_a_folder_that_cannot_keep_anything_is_named_at_once(tmp_path):
    (tmp_path / "file").write_text("mine")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=rf"--keep {folder} cannot be written to .*another folder"):
            zsad.serve(Brightness(), port=0, keep=str(folder))
    assert (tmp_path / "file").read_text() == "mine"


def test_a_port_in_use_is_named():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"port {port} .*--port {port + 1}"):
            zsad.serve(Brightness(), port=port)


@pytest.mark.parametrize(
    ("text", "size"), [("1000", 1000), ("20MB", 20_000_000), ("64 MiB", 2**26), ("1.5g", None), ("0", None)]
)
def test_sizes(text, size):
    if size is None:
        with pytest.raises(ConfigError):
            bytes_of(text, "--max-body")
    else:
        assert bytes_of(text, "--max-body") == size


def test_a_folder_with_an_equals_sign_is_a_folder(tmp_path):
    folder = tmp_path / "a=b"
    folder.mkdir()
    assert named_bundles([str(folder)]) == {"a=b": str(folder)}
