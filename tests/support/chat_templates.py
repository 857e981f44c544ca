"""Chat templates as converted LLaVAs carry them.

Source: the published `chat_template.json` of llava-hf/llava-1.5-7b-hf (`VICUNA`),
llava-hf/llava-v1.6-mistral-7b-hf (`MISTRAL`) and llava-hf/llava-onevision-qwen2-0.5b-ov-hf
(`ONEVISION`); the `tokenizer_config.json` of Qwen/Qwen2-0.5B-Instruct (`QWEN`, one text as content)
and meta-llama/Meta-Llama-3-8B-Instruct (`LLAMA_3`, which also takes the ends of texts off).
"""

_IMAGES = (
    "{# Render all images first #}"
    "{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}"
)
_TEXTS = "{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}"
VICUNA = (
    "{% for message in messages %}"
    "{% if message['role'] != 'system' %}{{ message['role'].upper() + ': '}}{% endif %}"
    f"{_IMAGES}{{{{ '<image>\\n' }}}}{{% endfor %}}"
    "{# Render all text next #}{% if message['role'] != 'assistant' %}"
    f"{_TEXTS}{{{{ content['text'] + ' '}}}}{{% endfor %}}"
    "{% else %}"
    f"{_TEXTS}{{% generation %}}{{{{ content['text'] + ' '}}}}{{% endgeneration %}}{{% endfor %}}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"
)
MISTRAL = (
    "{% for message in messages %}{% if message['role'] == 'system' %}"
    "{{ '<<SYS>>\\n' + message['content'][0]['text'] + '\\n<</SYS>>\\n\\n' }}"
    "{% elif message['role'] == 'user' %}{{ '[INST] ' }}"
    f"{_IMAGES}{{{{ '<image>\\n' }}}}{{% endfor %}}"
    f"{_TEXTS}{{{{ content['text'] }}}}{{% endfor %}}"
    "{{' [/INST]' }}{% elif message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'][0]['text'] + '</s> '}}"
    "{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}"
    "{% endfor %}"
)
ONEVISION = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}"
    f"{_IMAGES}{{{{ '<image>' }}}}{{% endfor %}}"
    "{% if message['role'] != 'assistant' %}"
    f"{_TEXTS}{{{{ '\\n' + content['text'] }}}}{{% endfor %}}"
    "{% else %}"
    f"{_TEXTS}{{% generation %}}{{{{ '\\n' + content['text'] }}}}{{% endgeneration %}}{{% endfor %}}"
    "{% endif %}{{'<|im_end|>'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
QWEN = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
LLAMA_3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
)
PUBLISHED = {
    "vicuna": VICUNA,
    "mistral": MISTRAL,
    "onevision": ONEVISION,
    "qwen": QWEN,
    "llama 3": LLAMA_3,
}
