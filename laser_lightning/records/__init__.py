"""The records that flow through a step: solutions, micro-batches, rounds.

The letters in the shapes of this package, one for each axis of a tensor (``laser_lightning.shapes``):

- P: problems of a round, each with a prompt and a group of solutions
- G: solutions of each problem; N: solutions in all, P * G where groups have one size
- M: some that were chosen, problems or solutions
- B: solutions of a micro-batch
- R: places of the longest response; Lp: of the longest prompt; L: of the longest prompt with its response
- K: tokens read behind ``<eos>``; S: scores of one solution
- V: entries of the vocabulary; D: components of a hidden state
- C: columns, or classes of equal answers; E: extra terms of the loss

Other axes are named by words. One letter is one length within a call, or a record, and not beyond.
"""
