// Vercel's ai, by its provider for services that speak OpenAI's dialect: text and its stream, an object, a tool that must be called and is run.
import assert from 'node:assert/strict'
import { createOpenAICompatible } from '@ai-sdk/openai-compatible'
import { generateText, Output, stepCountIs, streamText, tool } from 'ai'
import { z } from 'zod'

const provider = createOpenAICompatible({ name: 'dgemma', baseURL: `${process.argv[2]}/v1`, includeUsage: true, supportsStructuredOutputs: true })
const asked = { model: provider('dgemma'), prompt: 'Write `def area(r):`', seed: 3, maxOutputTokens: 96, maxRetries: 0 }

const whole = await generateText(asked)
assert(whole.text && whole.usage.outputTokens > 0)
const stream = streamText(asked)
let text = ''
for await (const piece of stream.textStream) text += piece
assert.equal(text, whole.text)
assert.equal((await stream.usage).outputTokens, whole.usage.outputTokens)

const schema = z.object({ name: z.string().max(12), kind: z.enum(['pure', 'effect']) })
const formed = await generateText({ ...asked, output: Output.object({ schema }) })
assert(['pure', 'effect'].includes(formed.output.kind))

const lookup = tool({
  description: 'The summary of a function of the standard library.',
  inputSchema: z.object({ name: z.enum(['os.path.join', 'textwrap.dedent']) }),
  execute: async ({ name }) => `${name}: joins paths.`,
})
const called = await generateText({
  ...asked,
  tools: { lookup },
  stopWhen: stepCountIs(2),
  prepareStep: ({ stepNumber }) => ({ toolChoice: stepNumber === 0 ? 'required' : 'none' }),
})
assert.equal(called.steps.length, 2)
assert.match(called.steps[0].toolResults[0].output, /joins paths/)
