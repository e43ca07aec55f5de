"""The official Python SDK against a node that is full (OPENAI_BASE_URL, OPENAI_API_KEY): its own class of error."""

import openai
from openai import OpenAI

client = OpenAI(max_retries=0)
MESSAGES = [{"role": "user", "content": "Tell me about the sea."}]
ACTS = [
    lambda: client.chat.completions.create(model="default", messages=MESSAGES, max_tokens=4),
    lambda: client.chat.completions.create(model="default", messages=MESSAGES, max_tokens=4, stream=True),
    lambda: client.completions.create(model="default", prompt="The sea", max_tokens=4),
    lambda: client.responses.create(model="default", input="The sea", max_output_tokens=4),
    lambda: client.responses.create(model="default", input="The sea", max_output_tokens=4, stream=True),
]

for act in ACTS:
    try:
        act()
    except openai.RateLimitError as error:
        assert error.status_code == 429 and error.code == "rate_limit_exceeded", error
        assert int(error.response.headers["retry-after"]) > 0
    else:
        raise AssertionError("RateLimitError was not raised")

print("all checks passed")
