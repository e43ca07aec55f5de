"""The official Python SDK, unmodified, against a node (OPENAI_BASE_URL, OPENAI_API_KEY)."""

import asyncio
import os

import openai
from openai import AsyncOpenAI, OpenAI

client = OpenAI()
MESSAGES = [{"role": "user", "content": "Tell me about the sea."}]


def refused(error, act, status):
    try:
        act()
    except error as found:
        assert found.status_code == status, found
        return found
    raise AssertionError(f"{error.__name__} was not raised")


# Models.
models = client.models.list().data
assert models and client.models.retrieve(models[0].id).id == models[0].id

# Chat Completions, whole and streamed.
chat = client.chat.completions.create(model="default", messages=MESSAGES, max_tokens=16, temperature=0)
text = chat.choices[0].message.content
assert text and chat.usage.completion_tokens == 16 and chat.choices[0].finish_reason == "length"
stream = client.chat.completions.create(
    model="default", messages=MESSAGES, max_tokens=16, temperature=0, stream=True, stream_options={"include_usage": True}
)
chunks = list(stream)
assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == text
assert chunks[-1].usage.completion_tokens == 16 and chunks[-1].usage.prompt_tokens_details.cached_tokens > 0
# Without usage every chunk is as the SDK's users read it: the one with the receipt too, which adds nothing.
plain = client.chat.completions.create(model="default", messages=MESSAGES, max_tokens=16, temperature=0, stream=True)
said = [chunk.choices[0] for chunk in plain]
assert "".join(choice.delta.content or "" for choice in said) == text and said[-1].finish_reason == "length"
with client.chat.completions.stream(model="default", messages=MESSAGES, max_tokens=16, temperature=0) as helped:
    assert list(helped) and helped.current_completion_snapshot.choices[0].message.content == text
raw = client.chat.completions.with_raw_response.create(model="default", messages=MESSAGES, max_tokens=4)
assert raw.headers["x-receipt-id"].startswith("rcpt_")

# Completions.
completion = client.completions.create(model="default", prompt="The sea is", max_tokens=8, temperature=0)
assert completion.choices[0].text and completion.usage.completion_tokens == 8
pieces = client.completions.create(model="default", prompt="The sea is", max_tokens=8, temperature=0, stream=True)
assert "".join(piece.choices[0].text for piece in pieces) == completion.choices[0].text

# Responses: whole, continued, streamed.
first = client.responses.create(model="default", input="Say hello.", max_output_tokens=16, temperature=0)
assert first.output_text and first.usage.output_tokens <= 16
second = client.responses.create(
    model="default", input="Again.", previous_response_id=first.id, max_output_tokens=16, temperature=0
)
assert second.usage.input_tokens > first.usage.input_tokens
with client.responses.stream(model="default", input="Say hello.", max_output_tokens=16, temperature=0) as events:
    told = list(events)
kinds = [event.type for event in told]
assert "".join(event.delta for event in told if event.type == "response.output_text.delta") == first.output_text
assert "response.output_text.delta" in kinds, kinds
assert kinds[-2] == "keepalive" and told[-2].receipt["finish_reason"] == "length", kinds

# Errors arrive as the SDK's own classes.
refused(openai.NotFoundError, lambda: client.chat.completions.create(model="gpt-99", messages=MESSAGES), 404)
refused(openai.BadRequestError, lambda: client.chat.completions.create(model="default", messages=MESSAGES, temperature=9), 400)
refused(openai.BadRequestError, lambda: client.responses.create(model="default", input="word " * 3000), 400)
stranger = OpenAI(api_key="wrong", max_retries=0)
refused(openai.AuthenticationError, lambda: stranger.models.list() and stranger.chat.completions.create(model="default", messages=MESSAGES), 401)


async def websocket():
    """Responses over a WebSocket."""
    async with AsyncOpenAI().responses.connect() as connection:
        await connection.response.create(model="default", input="Say hello.", max_output_tokens=16, temperature=0)
        text = ""
        async for event in connection:
            if event.type == "response.output_text.delta":
                text += event.delta
            elif event.type in ("response.completed", "response.incomplete"):
                assert event.response.output_text == text == first.output_text, (text, first.output_text)
                break
            elif event.type in ("error", "response.failed"):
                raise AssertionError(event)


asyncio.run(websocket())
print(f"openai {openai.__version__} on {os.environ['OPENAI_BASE_URL']}: all checks passed")
