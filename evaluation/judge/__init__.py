"""A language model with eyes as judge of images, behind an API compatible with that of OpenAI."""
