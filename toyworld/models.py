"""The base model's architecture: Stable Diffusion 1 in small, every structural rule kept.

The rules matter because a single-file checkpoint stores no configuration: a reader takes the sizes from the tensors'
shapes and everything else from what Stable Diffusion 1 always does (8 heads, 32 norm groups, cross-attention in all
levels but the deepest, convolutions around the transformer blocks, quick_gelu, text heads of 64 dimensions, scaling
factor 0.18215). Fewer and narrower levels are the only difference: 64 px pictures become latents of 16 x 16.
"""

from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

SIDE_PX = 64
LATENT_SIDE = 16
SCALING_FACTOR = 0.18215
VAE_CHANNELS = (64, 64, 64)
UNET_CHANNELS = (64, 96, 128)
TEXT_WIDTH = 128
TEXT_LAYERS = 2


def new_vae() -> AutoencoderKL:
    levels = len(VAE_CHANNELS)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=VAE_CHANNELS,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        sample_size=SIDE_PX,
        scaling_factor=SCALING_FACTOR,
    )


def new_unet() -> UNet2DConditionModel:
    crossing = len(UNET_CHANNELS) - 1
    return UNet2DConditionModel(
        sample_size=LATENT_SIDE,
        down_block_types=("CrossAttnDownBlock2D",) * crossing + ("DownBlock2D",),
        up_block_types=("UpBlock2D",) + ("CrossAttnUpBlock2D",) * crossing,
        block_out_channels=UNET_CHANNELS,
        layers_per_block=1,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=8,
    )


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=4 * TEXT_WIDTH,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_WIDTH // 64,
        max_position_embeddings=tokenizer.model_max_length,
        hidden_act="quick_gelu",
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return CLIPTextModel(config)


def new_scheduler() -> DDIMScheduler:
    """Stable Diffusion 1's noise: 1000 steps, betas linear in their square root, the network predicts epsilon."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )
