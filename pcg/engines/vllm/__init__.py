"""pcg as a plugin of vLLM: its acceptance rules in the place of vLLM's own (docs/vllm.md)."""
