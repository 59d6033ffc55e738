import { fal } from "@fal-ai/client";

const { request_id } = await fal.queue.submit("fal-ai/nemotron-diffusion-vlm", {
  input: {
    image_url: "https://storage.googleapis.com/falserverless/example_inputs/dog.png",
    prompt: "Describe the image in one short sentence."
  },
  webhookUrl: "https://optional.webhook.url/for/results",
});
