// OpenAI's own client against the line: node ask.mjs BASE_URL PICTURE.png
// Prints what it got as one JSON object; the test compares.
import OpenAI, { BadRequestError } from 'openai';
import { readFileSync } from 'node:fs';

const [baseURL, picture] = process.argv.slice(2);
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
const url = 'data:image/png;base64,' + readFileSync(picture).toString('base64');
const question = {
  model: 'chat',
  messages: [{ role: 'user', content: [{ type: 'image_url', image_url: { url } }, { type: 'text', text: 'what is on this picture?' }] }],
  temperature: 1,
  seed: 7,
  max_tokens: 40,
};
const out = { models: [], streamed: '', chunks: 0 };

for await (const model of await client.models.list()) out.models.push(model.id);

const stream = await client.chat.completions.create({ ...question, stream: true, stream_options: { include_usage: true } });
for await (const chunk of stream) {
  out.chunks += 1;
  out.streamed += chunk.choices[0]?.delta?.content ?? '';
  out.finish = chunk.choices[0]?.finish_reason ?? out.finish;
  out.usage = chunk.usage ?? out.usage;
}
const whole = await client.chat.completions.create(question);
out.whole = whole.choices[0].message.content;

const tools = [{ type: 'function', function: { name: 'get_weather', description: 'Weather', parameters: { type: 'object', properties: { city: { type: 'string' } }, required: ['city'] } } }];
const withTools = await client.chat.completions.create({ model: 'chat', messages: [{ role: 'user', content: 'weather?' }], tools, max_tokens: 5 });
out.withTools = withTools.object;

try {
  await client.chat.completions.create({ ...question, temperature: 9 });
} catch (error) {
  out.refused = { bad: error instanceof BadRequestError, status: error.status, param: error.param };
}
const controller = new AbortController();
const long = await client.chat.completions.create({ ...question, stream: true, max_tokens: 5000 }, { signal: controller.signal });
for await (const chunk of long) {
  controller.abort();
  break;
}
out.aborted = true;
console.log(JSON.stringify(out));
