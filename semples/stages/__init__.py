"""The seven stages of the method, one file each, all with the same `run`, which those of other packages have, too:

run(config, data, inputs, out, log) -> metrics

config: of the configuration what semples.pipeline.graph says that the stage reads; data: the data set; inputs: result
folders of the stages it depends on, by name (a refined result by the name of what it refines); out: a folder for its
files, empty but for the checkpoint of an attempt that was interrupted (training.fit); log(epoch, of, **values): one
point of the curves; metrics: final figures by name, mIoU in percent.
"""
