// ollama's own client for npm: what it asks about a model, a chat and its stream, a form, a gap.
import assert from 'node:assert/strict'
import { Ollama } from 'ollama'

const client = new Ollama({ host: process.argv[2] })
const options = { num_predict: 64, seed: 3 }
const messages = [{ role: 'user', content: 'Write `def area(r):`' }]
assert((await client.list()).models.length)
assert((await client.show({ model: 'dgemma' })).capabilities.includes('completion'))
assert(Array.isArray((await client.ps()).models))

const whole = await client.chat({ model: 'dgemma', messages, options })
assert(whole.message.content && whole.eval_count > 0)
let text = ''
for await (const part of await client.chat({ model: 'dgemma', messages, options, stream: true })) text += part.message.content
assert.equal(text, whole.message.content)
const format = { type: 'object', properties: { kind: { enum: ['pure', 'effect'] } }, required: ['kind'] }
const formed = await client.chat({ model: 'dgemma', messages, options, format })
assert(['pure', 'effect'].includes(JSON.parse(formed.message.content).kind))
assert((await client.generate({ model: 'dgemma', prompt: 'def area(r):\n', suffix: '\n\n', options })).done)
