"""The diffusion vision-language model (checkpoint format of Nemotron-Labs-Diffusion-VLM), in numpy."""
