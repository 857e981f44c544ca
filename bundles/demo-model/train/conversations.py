"""Prompts and the talk around the pictures: LLaVA's templates and a little politeness."""

from __future__ import annotations

_PROMISE = "The assistant gives helpful, detailed, and polite answers to the"

LLAVA_V1 = (
    "A chat between a curious human and an artificial intelligence assistant. "
    f"{_PROMISE} human's questions. USER: "
)
"""Source: haotian-liu/LLaVA, llava/conversation.py, conv_llava_v1."""

VICUNA_V1 = (
    "A chat between a curious user and an artificial intelligence assistant. "
    f"{_PROMISE} user's questions. USER: "
)
"""Source: haotian-liu/LLaVA, llava/conversation.py, conv_vicuna_v1."""

BARE_OPENING = "USER: "
OPENINGS = (LLAVA_V1, VICUNA_V1)
OPENING_WEIGHTS = {LLAVA_V1: 60, VICUNA_V1: 14, BARE_OPENING: 26}

NO_PICTURE = "I see no picture."

SMALL_TALK: tuple[tuple[tuple[str, ...], str], ...] = (
    (
        ("Hello!", "Hello", "Hi", "Hi!", "Hi there!", "Hello there.", "Good morning."),
        "Hello! Show me a picture of simple shapes and ask about it.",
    ),
    (
        ("Who are you?", "What are you?", "What is your name?", "Are you a robot?"),
        "I am the llava-pack demo, a very small model that knows simple shapes.",
    ),
    (
        ("What can you do?", "Help", "Help!", "What can I ask?", "How can you help me?"),
        "I can name shapes, colours and backgrounds, and count up to three.",
    ),
    (("Thanks!", "Thank you.", "Thanks", "Thank you!", "Great, thanks."), "You are welcome."),
    (
        (
            "What is the capital of France?",
            "Tell me a joke.",
            "Write a poem.",
            "Write a short story about the sea.",
            "How old are you?",
            "What time is it?",
            "What is the weather today?",
            "Who made this picture?",
            "Where was this photo taken?",
            "Is there a dog?",
            "Is there a person in the picture?",
            "How many people are there?",
            "How many cats do you see?",
            "What colour is the car?",
            "What is two plus two?",
            "Translate this into French.",
            "Why is the sky blue?",
            "Who is the president?",
            "What does the text say?",
            "Read the sign.",
            "Do you like music?",
            "Explain quantum physics.",
            "Give me a recipe for soup.",
            "Which animal is this?",
            "asdf",
            "test",
            "1234",
            "你好",
            "这是什么?",
            "Was ist das?",
        ),
        "I only know simple shapes and their colours.",
    ),
)
