/** R that asks the service, since no format has a runtime for R, and R that reads a Keras model's weights. */

import { fileEndingIn } from './runtimes/files';
import type { Artifact } from './server';
import type { Snippet } from './snippet';
import { count, defaultTensors, type Tensor } from './tensors';

const ask = (url: string, body: string, before = '') => `# install.packages(c("httr2", "jsonlite"))
library(httr2)

${before}answer <- request("${url}") |>
  ${body} |>
  req_perform() |>
  resp_body_json()`;

export function rPicture(url: string): Snippet {
  const code = `${ask(url, 'req_body_file("picture.png", type = "application/octet-stream")')}
cat(answer$label, "\\n")
for (label in names(answer$probabilities)) cat(label, answer$probabilities[[label]], "\\n")`;
  return { title: 'R', language: 'r', code };
}

/** One row of zeros; every other free size is 1. */
export function rTensors({ inputs }: Artifact, url: string): Snippet {
  const tensors = defaultTensors(inputs, 'zeros').map((tensor) => {
    const { name, datatype, shape } = tensor;
    return `  list(name = ${JSON.stringify(name)}, datatype = "${datatype}", shape = I(c(${shape.join(', ')})), ` +
      `data = I(rep(${rValue(tensor)}, ${count(shape)})))`;
  });
  const code = `${ask(url, 'req_body_json(list(inputs = inputs))', `inputs <- list(\n${tensors.join(',\n')}\n)\n`)}
for (output in answer$outputs) {
  cat(output$name, output$datatype, unlist(output$shape), "\\n")
  print(unlist(output$data))
}`;
  return { title: 'R', language: 'r', code };
}

function rValue({ datatype }: Tensor): string {
  return datatype === 'BYTES' ? '"Hello"' : datatype === 'BOOL' ? 'FALSE' : '0';
}

/** HDF5 keeps arrays row by row and R column by column, so R reads the axes in reverse, and `aperm` turns them round. */
export function rWeights(artifact: Artifact): Snippet {
  const code = `# install.packages("hdf5r")
library(hdf5r)

file <- H5File$new("${fileEndingIn(artifact, '.h5')}", mode = "r")
layers <- file[["model_weights"]]
weights <- list()
for (name in list.datasets(layers)) {
  value <- layers[[name]]$read(drop = FALSE)
  weights[[name]] <- if (is.array(value)) aperm(value) else value
  cat(name, if (is.array(value)) dim(weights[[name]]) else length(value), "\\n")
}
file$close_all()`;
  return { title: 'R, hdf5r', language: 'r', code };
}
