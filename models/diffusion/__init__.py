"""What a diffusion model needs around it to swap faces in crops: fitting crops, schedules, blending, guidance. The model is handed in."""
