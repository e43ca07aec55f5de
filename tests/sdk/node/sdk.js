// The official npm SDK, unmodified, against a node (OPENAI_BASE_URL, OPENAI_API_KEY).
import assert from 'node:assert/strict';

import OpenAI from 'openai';
import { ResponsesWS } from 'openai/resources/responses/ws';

const client = new OpenAI({ maxRetries: 0 });
const messages = [{ role: 'user', content: 'Tell me about the sea.' }];

// Models.
const models = (await client.models.list()).data;
assert.ok(models.length > 0);

// Chat Completions, whole and streamed.
const chat = await client.chat.completions.create({ model: 'default', messages, max_tokens: 16, temperature: 0 });
const text = chat.choices[0].message.content;
assert.ok(text);
assert.equal(chat.usage.completion_tokens, 16);
let streamed = '';
let usage;
const stream = await client.chat.completions.create({
  model: 'default', messages, max_tokens: 16, temperature: 0, stream: true, stream_options: { include_usage: true },
});
for await (const chunk of stream) {
  streamed += chunk.choices[0]?.delta?.content ?? '';
  usage = chunk.usage ?? usage;
}
assert.equal(streamed, text);
assert.equal(usage.completion_tokens, 16);
// Without usage every chunk is as the SDK's users read it: the one with the receipt too, which adds nothing.
let plain = '';
let reason;
for await (const chunk of await client.chat.completions.create({ model: 'default', messages, max_tokens: 16, temperature: 0, stream: true })) {
  plain += chunk.choices[0].delta.content ?? '';
  reason = chunk.choices[0].finish_reason;
}
assert.equal(plain, text);
assert.equal(reason, 'length');
const helped = client.chat.completions.stream({ model: 'default', messages, max_tokens: 16, temperature: 0 });
assert.equal((await helped.finalChatCompletion()).choices[0].message.content, text);
const { response: raw } = await client.chat.completions.create({ model: 'default', messages, max_tokens: 4 }).withResponse();
assert.match(raw.headers.get('x-receipt-id'), /^rcpt_/);

// Completions.
const completion = await client.completions.create({ model: 'default', prompt: 'The sea is', max_tokens: 8, temperature: 0 });
assert.equal(completion.usage.completion_tokens, 8);

// Responses: whole, continued, streamed.
const ask = { model: 'default', input: 'Say hello.', max_output_tokens: 16, temperature: 0 };
const first = await client.responses.create(ask);
assert.ok(first.output_text);
const second = await client.responses.create({ ...ask, input: 'Again.', previous_response_id: first.id });
assert.ok(second.usage.input_tokens > first.usage.input_tokens);
let delta = '';
for await (const event of await client.responses.create({ ...ask, stream: true })) {
  if (event.type === 'response.output_text.delta') delta += event.delta;
}
assert.equal(delta, first.output_text);
const finished = await client.responses.stream(ask).finalResponse();
assert.equal(finished.output_text, first.output_text);

// Errors arrive as the SDK's own classes.
await assert.rejects(client.chat.completions.create({ model: 'gpt-99', messages }), OpenAI.NotFoundError);
await assert.rejects(client.chat.completions.create({ model: 'default', messages, temperature: 9 }), OpenAI.BadRequestError);
await assert.rejects(client.responses.create({ model: 'default', input: 'word '.repeat(3000) }), OpenAI.BadRequestError);
const stranger = new OpenAI({ apiKey: 'wrong', maxRetries: 0 });
await assert.rejects(stranger.chat.completions.create({ model: 'default', messages }), OpenAI.AuthenticationError);

// Responses over a WebSocket.
const socket = new ResponsesWS(client);
const spoken = await new Promise((resolve, reject) => {
  let said = '';
  socket.on('error', reject);
  socket.on('event', (event) => {
    if (event.type === 'response.output_text.delta') said += event.delta;
    if (event.type === 'response.completed' || event.type === 'response.incomplete') resolve(said);
    if (event.type === 'response.failed' || event.type === 'error') reject(new Error(JSON.stringify(event)));
  });
  socket.send({ type: 'response.create', ...ask });
});
socket.close();
assert.equal(spoken, first.output_text);

console.log(`openai ${(await import('openai/version')).VERSION}: all checks passed`);
