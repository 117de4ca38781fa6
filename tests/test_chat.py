"""Chat templates: the text they make, and what they may not do."""

import json

import pytest

from deepmodels.errors import ConfigError
from deepmodels.tokenizers import Chat, load_chat

pytest.importorskip("jinja2")

CHATML = (
    "{%- for message in messages %}\n"
    "    {%- if message['role'] not in ['system', 'user', 'assistant'] %}\n"
    "        {{ raise_exception('unknown role: ' ~ message['role']) }}\n"
    "    {%- endif %}\n"
    "    {%- if loop.index > 3 %}{% break %}{% endif %}\n"
    "{{ bos_token if loop.first }}<|im_start|>{{ message['role'] }}\n"
    "{% generation %}{{ message['content'] | trim }}{% endgeneration %}<|im_end|>\n"
    "{% endfor %}\n"
    "{%- if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MESSAGES = [{"role": "system", "content": " Be brief. "}, {"role": "user", "content": "What is 2+2?"}]


def test_a_chat_is_written_as_the_template_says():
    chat = Chat(CHATML, {"bos_token": "<s>"})
    text = "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n"
    assert chat.render(MESSAGES, prompt=False) == text
    assert chat.render(MESSAGES) == text + "<|im_start|>assistant\n"


@pytest.mark.parity
def test_transformers_writes_the_same():
    import oracles

    oracles.import_transformers()
    from transformers.utils.chat_template_utils import render_jinja_template

    tools = "{{ messages | tojson }} {{ tools | tojson(indent=2) }} {{ messages[-1].content[:4] }}"
    for template in (CHATML, tools):
        given = dict(tools=[{"b": "<é>", "a": [1, None, True]}])
        (expected,), _ = render_jinja_template(
            [MESSAGES], chat_template=template, add_generation_prompt=True, bos_token="<s>", **given
        )
        assert Chat(template, {"bos_token": "<s>"}).render(MESSAGES, **given) == expected


def test_a_folder_has_its_template_in_one_of_two_places(tmp_path):
    with pytest.raises(ConfigError, match=r"no chat template: expected chat_template.jinja, or 'chat_template' in"):
        load_chat(tmp_path)
    config = {"chat_template": CHATML, "bos_token": {"content": "<s>", "lstrip": False}, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_chat(tmp_path).render(MESSAGES).startswith("<s><|im_start|>system")
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ bos_token }}yes"}]
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": named}))
    assert load_chat(tmp_path).render(MESSAGES) == "<s>yes"
    (tmp_path / "chat_template.jinja").write_text("its own file")
    assert load_chat(tmp_path).render(MESSAGES) == "its own file"
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer_config.json can't be read"):
        load_chat(tmp_path)


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.__init__.__globals__ }}",
        "{{ raise_exception.__globals__ }}",
        "{{ strftime_now.__globals__['datetime'] }}",
        "{{ ('x' | attr('__class__')).__mro__ }}",
        "{{ '{0.__class__}'.format(messages) }}{{ ''.__class__ }}",
        "{% set x = messages.append('more') %}",
        "{% for i in range(10**9) %}{% endfor %}",
    ],
)
def test_a_hostile_template_is_refused(template):
    with pytest.raises(ConfigError, match="the chat template (does what isn't allowed|refuses this)"):
        Chat(template).render(MESSAGES)


def test_what_a_template_refuses_is_said():
    with pytest.raises(ConfigError, match="the chat template refuses this: unknown role: robot"):
        Chat(CHATML).render([{"role": "robot", "content": "Beep."}])
    with pytest.raises(ConfigError, match="the chat template isn't one"):
        Chat("{% for %}")
    with pytest.raises(ConfigError, match="messages: expected plain data"):
        Chat(CHATML).render([{"role": "user", "content": object()}])
