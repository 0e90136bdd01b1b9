"""A folder that Hugging Face tools load: weights, tokenizer, model card, on request ONNX; and its way to the Hub."""

from trelm.export.card import data_row, render_card, source_licence
from trelm.export.folder import check_before, write_folder
from trelm.export.hub import push
from trelm.export.onnx import export_onnx

__all__ = ["check_before", "data_row", "export_onnx", "push", "render_card", "source_licence", "write_folder"]
