"""In diffusers' own pipelines DDPMFromScratchScheduler replaces DDPMScheduler without changing one bit.

Every pipeline is built around tiny networks with random weights, with the scheduler settings of its kind.
"""

import functools

import diffusers
import numpy as np
import pytest
import torch
from diffusers import (
    AutoencoderKL,
    AutoencoderKLCogVideoX,
    AutoencoderKLTemporalDecoder,
    CogVideoXTransformer3DModel,
    ControlNetModel,
    DDPMScheduler,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
    HunyuanDiT2DModel,
    Kandinsky3UNet,
    LatteTransformer3DModel,
    MotionAdapter,
    PixArtTransformer2DModel,
    PriorTransformer,
    T2IAdapter,
    UNet2DConditionModel,
    UNet2DModel,
    UNetSpatioTemporalConditionModel,
    VQModel,
)
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMBertConfig, LDMBertModel
from diffusers.pipelines.stable_diffusion.stable_unclip_image_normalizer import StableUnCLIPImageNormalizer
from transformers import (
    CLIPImageProcessor,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)

from ddpm_from_scratch import DDPMFromScratchScheduler, FewStepScheduler, SchedulerWarning
from defects import sampled_std

WIDTH = 8  # of text and image embeddings
TEXT_LENGTH = 7
LATENT_SIZE = 16
IMAGE_SIZE = 32

STABLE_DIFFUSION = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "steps_offset": 1,
}
STABLE_DIFFUSION_V = STABLE_DIFFUSION | {"prediction_type": "v_prediction"}
ZERO_SNR = STABLE_DIFFUSION_V | {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
SUPER_RESOLUTION = {
    "beta_start": 0.0015,
    "beta_end": 0.0155,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
}
LINEAR = {"clip_sample": False}
COSINE = {"beta_schedule": "squaredcos_cap_v2"}
UNCLIP_PRIOR = COSINE | {
    "prediction_type": "sample",
    "variance_type": "fixed_small_log",
    "clip_sample_range": 5.0,
}
LEARNED_RANGE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "variance_type": "learned_range",
    "clip_sample": False,
}
DEEP_FLOYD = COSINE | {
    "variance_type": "learned_range",
    "thresholding": True,
    "dynamic_thresholding_ratio": 0.95,
    "sample_max_value": 1.5,
}


def image(size=IMAGE_SIZE):
    return torch.rand(1, 3, size, size)


def mask():
    return (torch.arange(IMAGE_SIZE) < IMAGE_SIZE // 2).float().expand(1, 1, IMAGE_SIZE, IMAGE_SIZE)


def text():
    return {f"{sign}prompt_embeds": torch.randn(1, TEXT_LENGTH, WIDTH) for sign in ("", "negative_")}


def attention_masks(prefix="prompt_"):
    ones = torch.ones(1, TEXT_LENGTH, dtype=torch.long)
    return {f"{prefix}attention_mask": ones, f"negative_{prefix}attention_mask": ones}


def autoencoder(levels=2, **config):
    return AutoencoderKL(
        block_out_channels=(4,) * levels,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        norm_num_groups=2,
        latent_channels=4,
        **config,
    )


def vq_autoencoder():
    return VQModel(
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
        latent_channels=3,
        num_vq_embeddings=16,
    )


def movq():
    return VQModel(
        block_out_channels=(32, 32),
        down_block_types=("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
        up_block_types=("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
        norm_num_groups=2,
        latent_channels=4,
        num_vq_embeddings=16,
        norm_type="spatial",
    )


NETWORK = {
    "block_out_channels": (4, 8),
    "layers_per_block": 1,
    "norm_num_groups": 2,
    "cross_attention_dim": WIDTH,
    "attention_head_dim": 2,
}


def unet(**config):
    defaults = {
        "sample_size": LATENT_SIZE,
        "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D"),
    }
    return UNet2DConditionModel(**NETWORK | defaults | config)


def resnet_unet(**config):
    return unet(
        down_block_types=("ResnetDownsampleBlock2D", "SimpleCrossAttnDownBlock2D"),
        mid_block_type="UNetMidBlock2DSimpleCrossAttn",
        up_block_types=("SimpleCrossAttnUpBlock2D", "ResnetUpsampleBlock2D"),
        resnet_time_scale_shift="scale_shift",
        **config,
    )


def unconditional_unet(**config):
    return UNet2DModel(
        sample_size=LATENT_SIZE,
        block_out_channels=(4, 8),
        norm_num_groups=2,
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        **config,
    )


def controlnet():
    return ControlNetModel(
        **NETWORK,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        conditioning_embedding_out_channels=(4, 8),
    )


def adapter():
    return T2IAdapter(channels=(4, 8), num_res_blocks=1, downscale_factor=2)


def tokenizer():
    letters = "abcdefghijklmnopqrstuvwxyz"
    tokens = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def text_encoder(model_class=CLIPTextModel):
    config = CLIPTextConfig(
        vocab_size=54,
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    return model_class(config)


def image_encoder():
    config = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=WIDTH,
        projection_dim=WIDTH,
        num_hidden_layers=1,
        num_attention_heads=2,
        image_size=IMAGE_SIZE,
        patch_size=8,
    )
    return CLIPVisionModelWithProjection(config)


def without(*names):
    return dict.fromkeys(names)


def no_safety_checker():
    return without("text_encoder", "tokenizer", "safety_checker", "feature_extractor") | {
        "requires_safety_checker": False
    }


def stable_diffusion(pipeline_class, unet_channels=4, inputs=dict, **models):
    pipe = pipeline_class(
        vae=autoencoder(),
        unet=unet(in_channels=unet_channels),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION),
        **{key: model() for key, model in models.items()},
        **no_safety_checker(),
    )
    return pipe, text() | inputs()


def stable_diffusion_xl(pipeline_class, unet_channels=4, inputs=dict):
    time_ids_width = 4
    pipe = pipeline_class(
        vae=autoencoder(),
        unet=unet(
            in_channels=unet_channels,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            addition_embed_type="text_time",
            addition_time_embed_dim=time_ids_width,
            projection_class_embeddings_input_dim=6 * time_ids_width + WIDTH,
        ),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION),
        **without("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2"),
    )
    pooled = {f"{sign}pooled_prompt_embeds": torch.randn(1, WIDTH) for sign in ("", "negative_")}
    return pipe, text() | pooled | inputs()


def upscale(pipeline_class):
    pipe = pipeline_class(
        vae=autoencoder(scaling_factor=0.08333),
        unet=unet(in_channels=7, num_class_embeds=1000),
        low_res_scheduler=DDPMScheduler(**COSINE),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION_V),
        **without("text_encoder", "tokenizer"),
    )
    return pipe, text() | {"image": image(LATENT_SIZE), "noise_level": 20}


def stable_unclip_decoder():
    return {
        "image_normalizer": StableUnCLIPImageNormalizer(embedding_dim=WIDTH),
        "image_noising_scheduler": DDPMScheduler(**COSINE),
        "unet": unet(class_embed_type="projection", projection_class_embeddings_input_dim=2 * WIDTH),
        "scheduler": DDPMScheduler(**STABLE_DIFFUSION_V),
        "vae": autoencoder(),
    }


def stable_unclip(pipeline_class):
    pipe = pipeline_class(
        prior_tokenizer=tokenizer(),
        prior_text_encoder=text_encoder(CLIPTextModelWithProjection),
        prior=PriorTransformer(
            num_attention_heads=2, attention_head_dim=4, embedding_dim=WIDTH, num_layers=1, num_embeddings=77
        ),
        prior_scheduler=DDPMScheduler(**UNCLIP_PRIOR),
        tokenizer=tokenizer(),
        text_encoder=text_encoder(),
        **stable_unclip_decoder(),
    )
    return pipe, {"prompt": "a cat", "noise_level": 100, "prior_num_inference_steps": 3}


def stable_unclip_img2img(pipeline_class):
    pipe = pipeline_class(
        **stable_unclip_decoder(),
        image_encoder=image_encoder(),
        **without("feature_extractor", "tokenizer", "text_encoder"),
    )
    return pipe, text() | {"image": image(), "noise_level": 100}


def ddpm(pipeline_class):
    return pipeline_class(unconditional_unet(), DDPMScheduler()), {}


def dit(pipeline_class):
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        sample_size=LATENT_SIZE,
        num_embeds_ada_norm=1000,
    )
    pipe = pipeline_class(transformer, autoencoder(), DDPMScheduler(**LINEAR))
    return pipe, {"class_labels": [3]}


def pixart(pipeline_class):
    transformer = PixArtTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        cross_attention_dim=8,
        caption_channels=WIDTH,
        num_layers=1,
        sample_size=LATENT_SIZE,
    )
    pipe = pipeline_class(
        vae=autoencoder(),
        transformer=transformer,
        scheduler=DDPMScheduler(**LINEAR),
        **without("text_encoder", "tokenizer"),
    )
    return pipe, text() | attention_masks() | {"negative_prompt": None, "use_resolution_binning": False}


def hunyuan_dit(pipeline_class):
    transformer = HunyuanDiT2DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        patch_size=2,
        sample_size=LATENT_SIZE,
        hidden_size=16,
        num_layers=2,
        cross_attention_dim=WIDTH,
        cross_attention_dim_t5=WIDTH,
        pooled_projection_dim=WIDTH,
        text_len=TEXT_LENGTH,
        text_len_t5=TEXT_LENGTH,
    )
    pipe = pipeline_class(
        vae=autoencoder(levels=4),
        transformer=transformer,
        scheduler=DDPMScheduler(**STABLE_DIFFUSION_V | {"beta_end": 0.03}),
        **no_safety_checker(),
    )
    encoded = text() | attention_masks()
    encoded |= {f"{key}_2": value for key, value in encoded.items()}
    return pipe, encoded | {"height": 128, "width": 128, "use_resolution_binning": False}


def latent_diffusion(pipeline_class):
    config = LDMBertConfig(
        vocab_size=54,
        encoder_layers=1,
        encoder_ffn_dim=WIDTH,
        encoder_attention_heads=2,
        head_dim=4,
        d_model=WIDTH,
    )
    pipe = pipeline_class(
        vqvae=autoencoder(),
        bert=LDMBertModel(config),
        tokenizer=tokenizer(),
        unet=unet(),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION),
    )
    return pipe, {"prompt": "a cat", "guidance_scale": 5.0, "height": 64, "width": 64}


def latent_super_resolution(pipeline_class):
    pipe = pipeline_class(
        vq_autoencoder(), unconditional_unet(in_channels=6), DDPMScheduler(**SUPER_RESOLUTION)
    )
    return pipe, {"image": image(LATENT_SIZE)}


def animate_diff(pipeline_class):
    pipe = pipeline_class(
        vae=autoencoder(),
        unet=unet(),
        motion_adapter=MotionAdapter(
            block_out_channels=(4, 8),
            motion_layers_per_block=1,
            motion_num_attention_heads=2,
            motion_norm_num_groups=2,
        ),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION | {"beta_schedule": "linear"}),
        **without("text_encoder", "tokenizer"),
    )
    return pipe, text() | {"num_frames": 2}


def stable_video_diffusion(pipeline_class):
    pipe = pipeline_class(
        vae=AutoencoderKLTemporalDecoder(
            block_out_channels=(32, 32),
            down_block_types=("DownEncoderBlock2D",) * 2,
            latent_channels=4,
        ),
        image_encoder=image_encoder(),
        unet=UNetSpatioTemporalConditionModel(
            sample_size=LATENT_SIZE,
            block_out_channels=(32, 32),
            layers_per_block=1,
            cross_attention_dim=WIDTH,
            num_attention_heads=2,
            addition_time_embed_dim=4,
            projection_class_embeddings_input_dim=12,
            down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
            up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
        ),
        scheduler=DDPMScheduler(**STABLE_DIFFUSION_V),
        feature_extractor=CLIPImageProcessor(crop_size=IMAGE_SIZE, size=IMAGE_SIZE),
    )
    return pipe, {"image": image(), "num_frames": 2, "height": IMAGE_SIZE, "width": IMAGE_SIZE}


def latte(pipeline_class):
    transformer = LatteTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        out_channels=8,
        num_layers=1,
        cross_attention_dim=8,
        caption_channels=WIDTH,
        patch_size=2,
        sample_size=LATENT_SIZE,
        num_embeds_ada_norm=1000,
        norm_type="ada_norm_single",
        norm_elementwise_affine=False,
        video_length=2,
    )
    pipe = pipeline_class(
        vae=autoencoder(),
        transformer=transformer,
        scheduler=DDPMScheduler(**LINEAR),
        **without("text_encoder", "tokenizer"),
    )
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE, "video_length": 2}
    return pipe, text() | size | {"negative_prompt": None, "clean_caption": False}


def cogvideox(pipeline_class):
    transformer = CogVideoXTransformer3DModel(
        num_attention_heads=2,
        attention_head_dim=8,
        in_channels=4,
        out_channels=4,
        time_embed_dim=4,
        text_embed_dim=WIDTH,
        num_layers=1,
        sample_width=4,
        sample_height=4,
        sample_frames=5,
        max_text_seq_length=TEXT_LENGTH,
    )
    vae = AutoencoderKLCogVideoX(
        block_out_channels=(4, 4, 4, 4), norm_num_groups=2, layers_per_block=1, latent_channels=4
    )
    pipe = pipeline_class(
        vae=vae,
        transformer=transformer,
        scheduler=DDPMScheduler(**ZERO_SNR),
        **without("text_encoder", "tokenizer"),
    )
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE, "num_frames": 5}
    return pipe, text() | size | {"max_sequence_length": TEXT_LENGTH}


def kandinsky22(pipeline_class):
    pipe = pipeline_class(
        unet=resnet_unet(
            in_channels=4,
            out_channels=8,
            addition_embed_type="image",
            encoder_hid_dim=WIDTH,
            encoder_hid_dim_type="image_proj",
        ),
        scheduler=DDPMScheduler(**LEARNED_RANGE),
        movq=movq(),
    )
    image_embeds = {f"{sign}image_embeds": torch.randn(1, WIDTH) for sign in ("", "negative_")}
    return pipe, image_embeds | {"height": IMAGE_SIZE, "width": IMAGE_SIZE}


def kandinsky3(pipeline_class):
    network = Kandinsky3UNet(
        time_embedding_dim=8,
        groups=2,
        attention_head_dim=4,
        layers_per_block=2,
        block_out_channels=(8, 8, 8, 8),
        cross_attention_dim=WIDTH,
        encoder_hid_dim=WIDTH,
    )
    pipe = pipeline_class(
        unet=network,
        scheduler=DDPMScheduler(**COSINE),
        movq=movq(),
        **without("text_encoder", "tokenizer"),
    )
    size = {"height": 64, "width": 64}
    return pipe, text() | attention_masks(prefix="") | size


def deep_floyd(pipeline_class):
    pipe = pipeline_class(
        unet=resnet_unet(in_channels=3, out_channels=6),
        scheduler=DDPMScheduler(**DEEP_FLOYD),
        watermarker=None,
        **no_safety_checker(),
    )
    return pipe, text()


def deep_floyd_super_resolution(pipeline_class):
    pipe = pipeline_class(
        unet=resnet_unet(in_channels=6, out_channels=6, class_embed_type="timestep", sample_size=IMAGE_SIZE),
        scheduler=DDPMScheduler(**DEEP_FLOYD),
        image_noising_scheduler=DDPMScheduler(**COSINE),
        watermarker=None,
        **no_safety_checker(),
    )
    return pipe, text() | {"image": image(LATENT_SIZE), "noise_level": 250}


def marigold(pipeline_class):
    pipe = pipeline_class(
        unet=unet(in_channels=8),
        vae=autoencoder(),
        scheduler=DDPMScheduler(**ZERO_SNR),
        text_encoder=text_encoder(),
        tokenizer=tokenizer(),
        prediction_type="depth",
    )
    return pipe, {"image": image(), "processing_resolution": 0}


def image_inputs():
    return {"image": image()}


def img2img_inputs():
    return {"image": image(), "strength": 0.7}


def inpaint_inputs():
    size = {"height": IMAGE_SIZE, "width": IMAGE_SIZE}
    return {"image": image(), "mask_image": mask(), "strength": 0.7} | size


def control_img2img_inputs():
    return {"image": image(), "control_image": image(), "strength": 0.7}


PIPELINES = {
    "StableDiffusionPipeline": stable_diffusion,
    "StableDiffusionImg2ImgPipeline": functools.partial(stable_diffusion, inputs=img2img_inputs),
    "StableDiffusionInpaintPipeline": functools.partial(stable_diffusion, inputs=inpaint_inputs),
    "StableDiffusionInstructPix2PixPipeline": functools.partial(
        stable_diffusion, unet_channels=8, inputs=image_inputs
    ),
    "StableDiffusionControlNetPipeline": functools.partial(
        stable_diffusion, inputs=image_inputs, controlnet=controlnet
    ),
    "StableDiffusionControlNetImg2ImgPipeline": functools.partial(
        stable_diffusion, inputs=control_img2img_inputs, controlnet=controlnet
    ),
    "StableDiffusionAdapterPipeline": functools.partial(
        stable_diffusion, inputs=image_inputs, adapter=adapter
    ),
    "StableDiffusionPAGPipeline": stable_diffusion,
    "StableDiffusionUpscalePipeline": upscale,
    "StableDiffusionXLPipeline": stable_diffusion_xl,
    "StableDiffusionXLImg2ImgPipeline": functools.partial(stable_diffusion_xl, inputs=img2img_inputs),
    "StableDiffusionXLInpaintPipeline": functools.partial(
        stable_diffusion_xl, unet_channels=9, inputs=inpaint_inputs
    ),
    "StableUnCLIPPipeline": stable_unclip,
    "StableUnCLIPImg2ImgPipeline": stable_unclip_img2img,
    "DDPMPipeline": ddpm,
    "DiTPipeline": dit,
    "PixArtAlphaPipeline": pixart,
    "PixArtSigmaPipeline": pixart,
    "HunyuanDiTPipeline": hunyuan_dit,
    "LDMTextToImagePipeline": latent_diffusion,
    "LDMSuperResolutionPipeline": latent_super_resolution,
    "AnimateDiffPipeline": animate_diff,
    "StableVideoDiffusionPipeline": stable_video_diffusion,
    "LattePipeline": latte,
    "CogVideoXPipeline": cogvideox,
    "KandinskyV22Pipeline": kandinsky22,
    "Kandinsky3Pipeline": kandinsky3,
    "IFPipeline": deep_floyd,
    "IFSuperResolutionPipeline": deep_floyd_super_resolution,
    "MarigoldDepthPipeline": marigold,
}

OTHER_SCHEDULERS = (
    "PNDMScheduler",
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "DPMSolverMultistepScheduler",
    "UniPCMultistepScheduler",
    "DEISMultistepScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
    "DDIMScheduler",
)


@pytest.fixture
def calls(monkeypatch):
    """The (scheduler, method) pairs that a pipeline calls, in order."""
    recorded = []

    def recording(method):
        @functools.wraps(method)
        def call(self, *args, **kwargs):
            recorded.append((self, method.__name__))
            return method(self, *args, **kwargs)

        return call

    for scheduler_class in (DDPMScheduler, DDPMFromScratchScheduler):
        for name in ("step", "add_noise"):
            monkeypatch.setattr(scheduler_class, name, recording(getattr(scheduler_class, name)))
    return recorded


def build(name):
    torch.manual_seed(0)
    pipe, inputs = PIPELINES[name](getattr(diffusers, name))
    pipe.set_progress_bar_config(disable=True)
    for model in pipe.components.values():
        if isinstance(model, torch.nn.Module):
            model.eval()
            fill_zero_parameters(model)
    return pipe, inputs


@torch.no_grad()
def fill_zero_parameters(model):
    """Give control networks, motion modules and gates, which start at zero, a part in the result."""
    for parameter in model.parameters():
        if not parameter.any():
            parameter.normal_(std=0.1)


def run(pipe, inputs, seed):
    torch.manual_seed(seed)  # DiT, latent diffusion and SVD let `step` draw from the global generator
    generator = torch.Generator().manual_seed(seed + 1000)
    return pipe(
        **inputs,
        generator=generator,
        num_inference_steps=4,
        output_type="np",
        return_dict=False,
    )[0]


@pytest.mark.filterwarnings("ignore:The decode_latents method is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:clip_sample=True clips:ddpm_from_scratch.SchedulerWarning")
@pytest.mark.parametrize("name", PIPELINES)
def test_swapped_scheduler_gives_bit_same_result(name, calls):
    pipe, inputs = build(name)
    stock = run(pipe, inputs, seed=1)
    stock_calls = list(calls)
    assert np.isfinite(stock).all() and np.ptp(stock) > 0
    assert not np.array_equal(stock, run(pipe, inputs, seed=2))

    swapped = []
    for key, scheduler in pipe.components.items():
        if isinstance(scheduler, DDPMScheduler):
            swapped.append(DDPMFromScratchScheduler.from_config(scheduler.config))
            setattr(pipe, key, swapped[-1])
    calls.clear()
    ours = run(pipe, inputs, seed=1)

    assert [method for _, method in calls] == [method for _, method in stock_calls]
    assert {type(scheduler) for scheduler, _ in calls} == {DDPMFromScratchScheduler}
    assert {id(scheduler) for scheduler, _ in calls} == {id(scheduler) for scheduler in swapped}
    assert np.array_equal(stock, ours)


@pytest.mark.parametrize("stored", (False, True), ids=("fresh", "stored"))
@pytest.mark.parametrize("name", OTHER_SCHEDULERS)
def test_takes_the_config_of_another_scheduler(name, stored, tmp_path, calls):
    """A stored config also carries the other scheduler's defaults, which a fresh one leaves out."""
    settings = {key: value for key, value in STABLE_DIFFUSION.items() if key != "clip_sample"}
    scheduler = getattr(diffusers, name)(**settings)
    if stored:
        scheduler.save_pretrained(tmp_path)
        scheduler = type(scheduler).from_pretrained(tmp_path)
    pipe, inputs = build("StableDiffusionPipeline")

    pipe.scheduler = DDPMScheduler.from_config(scheduler.config, clip_sample=False)
    stock = run(pipe, inputs, seed=1)
    pipe.scheduler = DDPMFromScratchScheduler.from_config(scheduler.config, clip_sample=False)
    calls.clear()
    ours = run(pipe, inputs, seed=1)

    assert {type(scheduler) for scheduler, _ in calls} == {DDPMFromScratchScheduler}
    assert np.array_equal(stock, ours)


# Image-to-image pipelines take only the last steps, where a corrector has nothing left to correct.
WHOLE_CHAINS = (
    "StableDiffusionPipeline",
    "StableDiffusionInstructPix2PixPipeline",
    "StableDiffusionControlNetPipeline",
    "StableDiffusionAdapterPipeline",
    "StableDiffusionPAGPipeline",
    "StableDiffusionXLPipeline",
    "PixArtAlphaPipeline",
    "PixArtSigmaPipeline",
    "HunyuanDiTPipeline",
    "AnimateDiffPipeline",
    "LattePipeline",
)
LAST_STEPS = (
    "StableDiffusionImg2ImgPipeline",
    "StableDiffusionInpaintPipeline",
    "StableDiffusionControlNetImg2ImgPipeline",
    "StableDiffusionXLImg2ImgPipeline",
    "StableDiffusionXLInpaintPipeline",
)


@pytest.mark.filterwarnings("ignore:The decode_latents method is deprecated:FutureWarning")
@pytest.mark.parametrize("name", (*WHOLE_CHAINS, *LAST_STEPS))
def test_few_step_scheduler_takes_the_place_of_dpm_solver(name):
    """Without corrector, on the same timesteps, the two are the same."""
    pipe, inputs = build(name)
    config = {key: value for key, value in pipe.scheduler.config.items() if key != "clip_sample"}
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(
        config, solver_type="heun", timestep_spacing="trailing"
    )
    stock = run(pipe, inputs, seed=1)
    pipe.scheduler.set_timesteps(4)
    visited = pipe.scheduler.timesteps.tolist()
    calibration = {"steps": {"4": {"timesteps": visited, "noise_level": 0.0}}}

    ours = {}
    for corrector_order in (0, 2):
        pipe.scheduler = FewStepScheduler.from_config(
            config, calibration=calibration, corrector_order=corrector_order
        )
        ours[corrector_order] = run(pipe, inputs, seed=1)
    assert np.abs(ours[0] - stock).max() < 1e-3
    assert np.isfinite(ours[2]).all()
    assert np.array_equal(ours[2], ours[0]) == (name in LAST_STEPS)


@pytest.mark.filterwarnings("ignore:.*no calibration:ddpm_from_scratch.SchedulerWarning")
@pytest.mark.parametrize("kind", (DDPMFromScratchScheduler, FewStepScheduler))
@pytest.mark.parametrize("name", ("PNDMScheduler", "EulerDiscreteScheduler", "DDIMScheduler"))
def test_latents_of_an_exact_network_keep_their_spread(name, kind):
    """N(0, 1) latents from settings of Stable Diffusion; cut to [-1, 1], their std is 0.7."""
    settings = {key: STABLE_DIFFUSION[key] for key in ("beta_start", "beta_end", "beta_schedule")}
    if name == "DDIMScheduler":
        settings["clip_sample"] = False
    scheduler = kind.from_config(getattr(diffusers, name)(**settings).config)
    scheduler.set_timesteps(1000 if kind is DDPMFromScratchScheduler else 50)
    assert sampled_std(scheduler, data_std=1.0, count=20_000) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("kind", (DDPMFromScratchScheduler, FewStepScheduler))
def test_clipping_warns_in_a_pipeline_of_latents(kind, tmp_path, recwarn):
    pipe, inputs = build("StableDiffusionPipeline")
    pipe.scheduler = kind.from_config(pipe.scheduler.config, clip_sample=True)
    run(pipe, inputs, seed=1)
    run(pipe, inputs, seed=1)
    said = [str(warning.message) for warning in recwarn if warning.category is SchedulerWarning]
    said = [text for text in said if "StableDiffusionPipeline samples are latents of its vae" in text]
    assert len(said) == 1
    pipe.scheduler = kind.from_config(pipe.scheduler.config, clip_sample=True)
    with pytest.warns(SchedulerWarning, match="are latents of its vae"):
        pipe.save_pretrained(tmp_path)
