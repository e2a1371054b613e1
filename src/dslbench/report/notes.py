"""What the audit found, by the key that its tables show."""

from __future__ import annotations

NOTES: dict[str, str] = {
    "n+m": "propagation is multiplied by the number of rows N + M once too often; section 3.3 of the "
    "paper has nnz(A) d L. It then outweighs scoring, which sparsity does not touch.",
    "layers": "one of L layers is counted dense and L - 1 sparse. It is the reverse: only the first "
    "layer's input is sparse, every later one is dense.",
    "edges": "Amazon-Book is counted with the 1,237,259 training pairs of Yelp2018 as edges (but "
    "with the steps of its own 2,380,730). With its own edges propagation is 1.92 times this.",
    "rounded": "comes from a rounded figure of the dense model.",
    "flops": "two operations for each product, unlike the other rows; users padded to 1024.",
    "epochs": "200, 150 and 500 epochs (Amazon-Book, Yelp2018, Gowalla) and two weights are fitted "
    "to these twelve figures: a good fit, not a proof.",
    "config": "counted with batch 1024; the released configuration has 512.",
    "tower": "1560 a pair is the released shape without its 16 x 8 layer; DSL's 1042 is half of the "
    "first layer and three quarters of the head. Both were chosen because they fit.",
    "one-out": "994,169 training rows: one item held out a user. The released script holds out two.",
    "check-ins": "1,180,805 training rows: 1,196,248 check-ins less one a user. The public data has "
    "588,534 distinct pairs.",
    "neumf-rows": "needs 238.3 to 238.9 batches. 120,361 rows make 236, as ConvNCF's figure for the "
    "same data has it.",
    "convncf-rows": "needs 2265 to 2278 batches. NeuMF's figure for the same data needs 2303 to 2309.",
    "pair": "74,900 (dense) and 19,120 (DSL) a pair are fitted; no architecture was found that has "
    "them. The official network has 1.53 million.",
    "width": "hidden width 256 and one 256 x 256 product a user are fitted; no code was released.",
    "ratio": "the printed dense figure times 1 - s, with s = 0.5 (Foursquare: 0.2).",
    "unknown": "not decoded: no number of users, widths and epochs gives all three data sets.",
    "rounds": "six rounds at densities 0.9 to 0.9^6, which is 46.9 % sparsity and not 50 %. The dense "
    "round before them is not counted.",
    "search": "the search alone, at a mean density of 0.75. PEP's second training is not counted.",
    "student": "teacher and a student of half the size, 1 + 1/2.",
    "tkd": "5/3 of dense fits; why is unknown.",
    "automl": "no closed form in sizes, passes or densities was found.",
    "mean": "mean of the two printed ratios to dense, less 1.",
    "half": "half of the dense run's whole reading, with its graph and activations. No masked table "
    "can show that.",
    "last-batch": "hits among the 408, 35 or 83 users of the last test batch, a random sample: a "
    "standard error of about 2, 8 or 5.5 points. The NDCG beside it comes from the same users.",
    "lcm": "equals the row LCM (a linear projection of a frozen teacher) of the LTH-MRS paper. It is "
    "not ranking distillation.",
    "ticket": "equals the winning ticket of the LTH-MRS paper, which trains by another recipe.",
    "decay": "cosine decay is DSL's default, and Table 2 has another value for DSL (l=3).",
}

# Notes by which a figure needs an input that another figure for the same data contradicts.
CONTRADICTED = frozenset({"neumf-rows", "convncf-rows"})
# Notes by which a figure contradicts its data, its table or its name, whatever its digits.
INCONSISTENT = frozenset({"edges", "half", "last-batch", "lcm", "ticket", "decay"})
