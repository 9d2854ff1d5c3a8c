"""pcg as a plugin of vLLM: its acceptance rules replace vLLM's own (docs/vllm.md)."""
