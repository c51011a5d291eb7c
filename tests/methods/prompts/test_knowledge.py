"""KAnoCLIP's knowledge base: the list that ships, and the lists that users bring."""

from __future__ import annotations

import pytest

from zsad.errors import ConfigError
from zsad.methods.prompts.knowledge import PACKAGED, Knowledge, find_knowledge, read_knowledge

GOOD = "normal:\n- a good {}\nabnormal:\n- a bad {}\n"


def test_the_list_that_ships():
    knowledge = find_knowledge(None, "object")
    assert (len(knowledge.normal), len(knowledge.abnormal)) == (20, 40)
    assert len(set(knowledge.normal + knowledge.abnormal)) == 60
    assert all(sentence.endswith(".") for sentence in knowledge.normal + knowledge.abnormal)
    assert knowledge == read_knowledge(PACKAGED)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("normal:\n- a good {}\n", r"line 1: abnormal must be a list of sentences, got None"),
        ("abnormal:\n- a bad {}\nnormal: a good {}\n", r"line 3: normal must be a list of sentences"),
        ("normal:\n- a good {}\nabnormal: []\n", r"line 3: abnormal must be a list of sentences, got \[\]"),
        (
            GOOD + "- a hole\n",
            r"line 5: abnormal\[1\] must be a sentence with one {} for the object, got 'a hole'",
        ),
        (GOOD + "- a {} of {}\n", r"line 5: abnormal\[1\] must be a sentence with one {}"),
        (GOOD + "- 3\n", r"line 5: abnormal\[1\] must be a sentence with one {} for the object, got 3"),
        (GOOD + "abnromal:\n- a dent {}\n", r"line 6: 'abnromal' is unknown; known lists: normal, abnormal"),
        ("normal:\n- a good {}\nabnormal:\n- {} with a crack\n", r"is not YAML .*line 4"),
        ("- a good {}\n", r"expected names with values"),
    ],
)
def test_a_broken_file_is_refused_with_its_line(tmp_path, text, message):
    path = tmp_path / "own.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=message) as caught:
        read_knowledge(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"none\.yaml: cannot be read"):
        find_knowledge(tmp_path / "none.yaml", "object")


def test_a_function_answers_about_a_name():
    answer = find_knowledge(lambda name: {"normal": [f"a good {name} {{}}"], "abnormal": ["a bad {}"]}, "nut")
    assert answer == Knowledge(("a good nut {}",), ("a bad {}",))


@pytest.mark.parametrize("answer", [None, "a bad {}", {"normal": ["a good {}"]}])
def test_a_wrong_answer_is_refused(answer):
    with pytest.raises(ConfigError, match=r"knowledge \(the answer of a function about 'nut'\)"):
        find_knowledge(lambda name: answer, "nut")
