"""Networks that embed images and prompts, each with the preprocessing that its protocol pins."""
