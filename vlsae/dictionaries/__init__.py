"""Dictionaries: sets of concepts, learned from representations, that rows are coded in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from vlsae import lazy

if TYPE_CHECKING:
    from vlsae.dictionaries.auxiliary import AuxiliaryAutoencoder
    from vlsae.dictionaries.base import Dictionary, SparseCode
    from vlsae.dictionaries.batch_top_k import BatchTopK
    from vlsae.dictionaries.canonical import Canonical
    from vlsae.dictionaries.codebook import codebook_snap
    from vlsae.dictionaries.codebook_dictionary import Codebook
    from vlsae.dictionaries.dist_1dec import DistanceOneDecoder
    from vlsae.dictionaries.fit import Fit
    from vlsae.dictionaries.gated import Gated
    from vlsae.dictionaries.ica import ICA
    from vlsae.dictionaries.jump_relu import JumpReLU
    from vlsae.dictionaries.kmeans import KMeans
    from vlsae.dictionaries.linear_basis import LinearBasis
    from vlsae.dictionaries.matryoshka import Matryoshka
    from vlsae.dictionaries.matryoshka_k import MatryoshkaK
    from vlsae.dictionaries.nmf import NMF
    from vlsae.dictionaries.nonnegative import NonNegative
    from vlsae.dictionaries.pca import PCA
    from vlsae.dictionaries.pretrained import from_pretrained
    from vlsae.dictionaries.prototype import prototype_loss
    from vlsae.dictionaries.prototype_network import PrototypeNetwork
    from vlsae.dictionaries.random_enc import RandomEncoder
    from vlsae.dictionaries.relu_l1 import ReLUL1
    from vlsae.dictionaries.sae_d import SAED
    from vlsae.dictionaries.sae_s import SAES
    from vlsae.dictionaries.sae_v import SAEV
    from vlsae.dictionaries.shared_lin_2dec import SharedLinear
    from vlsae.dictionaries.similarity import IntraInter, intra_inter_similarity
    from vlsae.dictionaries.splice import Splice
    from vlsae.dictionaries.top_k import TopK
    from vlsae.dictionaries.vl_sae import VLSAE

_HOMES = {
    "AuxiliaryAutoencoder": "auxiliary",
    "BatchTopK": "batch_top_k",
    "Canonical": "canonical",
    "Codebook": "codebook_dictionary",
    "Dictionary": "base",
    "DistanceOneDecoder": "dist_1dec",
    "Fit": "fit",
    "Gated": "gated",
    "ICA": "ica",
    "IntraInter": "similarity",
    "JumpReLU": "jump_relu",
    "KMeans": "kmeans",
    "LinearBasis": "linear_basis",
    "Matryoshka": "matryoshka",
    "MatryoshkaK": "matryoshka_k",
    "NMF": "nmf",
    "NonNegative": "nonnegative",
    "PCA": "pca",
    "PrototypeNetwork": "prototype_network",
    "RandomEncoder": "random_enc",
    "ReLUL1": "relu_l1",
    "SAED": "sae_d",
    "SAES": "sae_s",
    "SAEV": "sae_v",
    "SharedLinear": "shared_lin_2dec",
    "SparseCode": "base",
    "Splice": "splice",
    "TopK": "top_k",
    "VLSAE": "vl_sae",
    "codebook_snap": "codebook",
    "from_pretrained": "pretrained",
    "intra_inter_similarity": "similarity",
    "prototype_loss": "prototype",
}

__all__ = [
    "ICA",
    "NMF",
    "PCA",
    "SAED",
    "SAES",
    "SAEV",
    "VLSAE",
    "AuxiliaryAutoencoder",
    "BatchTopK",
    "Canonical",
    "Codebook",
    "Dictionary",
    "DistanceOneDecoder",
    "Fit",
    "Gated",
    "IntraInter",
    "JumpReLU",
    "KMeans",
    "LinearBasis",
    "Matryoshka",
    "MatryoshkaK",
    "NonNegative",
    "PrototypeNetwork",
    "RandomEncoder",
    "ReLUL1",
    "SharedLinear",
    "SparseCode",
    "Splice",
    "TopK",
    "codebook_snap",
    "from_pretrained",
    "intra_inter_similarity",
    "prototype_loss",
]

__getattr__ = lazy.exports(__name__, _HOMES)
