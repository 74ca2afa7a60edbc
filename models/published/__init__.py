"""Published weights: files of tensors, and the names that tie those tensors to parameter paths.

`files` reads and writes folders in Hugging Face's layout, `tf_checkpoints` reads TensorFlow checkpoints, both as
{tensor name: NumPy array} in the stored dtypes; `names` maps such tensors to parameters and back by one table.
"""
