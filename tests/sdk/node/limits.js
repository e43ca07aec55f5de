// The official npm SDK against a node that is full (OPENAI_BASE_URL, OPENAI_API_KEY): its own class of error.
import assert from 'node:assert/strict';

import OpenAI from 'openai';

const client = new OpenAI({ maxRetries: 0 });
const chat = { model: 'default', messages: [{ role: 'user', content: 'Tell me about the sea.' }], max_tokens: 4 };
const ask = { model: 'default', input: 'The sea', max_output_tokens: 4 };

for (const act of [
  () => client.chat.completions.create(chat),
  () => client.chat.completions.create({ ...chat, stream: true }),
  () => client.completions.create({ model: 'default', prompt: 'The sea', max_tokens: 4 }),
  () => client.responses.create(ask),
  () => client.responses.create({ ...ask, stream: true }),
]) {
  await assert.rejects(act, (error) => {
    assert.ok(error instanceof OpenAI.RateLimitError, error);
    assert.equal(error.status, 429);
    assert.equal(error.code, 'rate_limit_exceeded');
    assert.ok(Number(error.headers.get('retry-after')) > 0);
    return true;
  });
}

console.log('all checks passed');
