"""What a diffusion model needs around it to swap a face: crop fitting, blending per step, guidance. The sampler is handed in."""
