/** The English words of the page; every other language has exactly these. */

export const english = {
  tagline: 'One trained model in every deployment format. Does it still give the same answers, how fast, and how big?',
  language: 'Language',
  views: { compare: 'Compare', race: 'Race', report: 'Report', ship: 'Ship it' },
  server: 'server',
  browser: 'browser',

  // Failures
  late: (seconds: number) => `It did not answer within ${seconds} s. Load the page again.`,
  cancelled: 'Cancelled.',
  unreadable: 'The picture could not be read in this browser.',
  noCode: 'Its code did not come. Check the server, then load the page again.',
  offline: 'The server does not answer. What this browser has kept still works; start the server for the rest.',
  missing: (what: string) => `Not here: ${what}.`,
  noWebGpu: 'WebGPU (this browser offers no graphics adapter for it)',
  noWebGl: 'WebGL',
  noThreads: 'threads (open the page as https:// or from localhost)',

  // The picture
  picture: 'Picture',
  ways: { sample: 'Test image', upload: 'Upload', draw: 'Draw', camera: 'Camera' },
  whereFrom: 'Where the picture comes from',
  choosePicture: 'Choose a picture: every row answers for it.',
  thePicture: 'the picture',
  modelSees: 'what the model sees',
  tensorAlt: (shape: string) => `The tensor: ${shape} values`,
  sameTensor: 'the same bytes on both sides',
  otherTensor: 'the server decodes this picture otherwise: small differences are the decoder’s',
  noSamples: 'The server offers no test images. Upload a picture, or draw one.',
  samplesOf: (count: number, title: string) => `${count} pictures of the test set of ${title}`,
  anyOne: 'Any one',
  allClasses: 'All classes',
  classFilter: 'Class',
  chooseFile: 'Choose a file',
  dropHint: 'or drop one anywhere, or paste one. PNG, JPEG, WebP, GIF or BMP; it is sent to this server only.',
  paper: 'Paper to draw on',
  drawHint: 'Draw with a pointer or a finger.',
  clear: 'Clear',
  cameraAlt: 'The camera’s picture',
  takePicture: 'Take the picture',
  noCamera: (why: string) => `No picture came from a camera (${why}). Allow it, or upload a file.`,
  cameraNeedsHttps: 'browsers offer it only over https:// or from localhost',
  testImage: (index: number) => `test image ${index}`,
  drawing: 'drawing',
  photograph: 'photograph',
  pasted: 'pasted picture',

  // Pictures that formats disagree on
  disagree: 'One that the formats disagree on',
  searching: 'Looking …',
  flipFound: (index: number, artifact: string, source: string, theirs: string) =>
    `Test image ${index}: ${artifact} says ${theirs}, its source says ${source}.`,
  flipNotHere: (index: number, artifact: string) =>
    `${artifact} flips test image ${index}, which is not among the pictures here.`,
  noFlip: (compared: number) =>
    `No format disagrees with its source on any of the ${compared.toLocaleString('en')} pictures that were compared.`,
  nearest: (index: number, model: string, first: string, second: string, margin: string) =>
    `This is the closest call among the test images here, ${index}: ${model} gives ${first} only ${margin} more than ${second}.`,
  notCompared: 'No parity result is here: run `make verify`.',

  // Rows
  answers: 'Answers',
  inBrowserToo: 'Run in this browser too',
  downloadedOnce: '(each runtime is downloaded once)',
  answered: (done: number, all: number) => `${done} of ${all} rows have answered`,
  columns: { format: 'Format', where: 'Runs on', answer: 'Answer', time: 'Time', size: 'Size', diff: 'Difference' },
  sortBy: (column: string) => `Sort by ${column}`,
  states: { idle: 'waiting', loading: 'loading the runtime', running: 'running', done: '', failed: '' },
  status: { source: 'source', verified: 'verified', unverified: 'unverified', failed: 'failed' },
  statusHelp: {
    source: 'What training wrote. The others are compared with it.',
    verified: 'Passed the parity check with exactly these bytes.',
    unverified: 'No passing parity check for exactly these bytes.',
    failed: 'Cannot be served.',
  },
  parts: { preprocess: 'preprocess', queue: 'queue', compute: 'compute', network: 'network' },
  firstLoad: 'first load',
  isSource: 'source',
  noSourceAnswer: 'no source answer',
  sameClass: 'same class',
  otherClass: 'another class',
  digits: 'The probability of the best class; marked are the digits that the source’s does not have.',
  ship: 'Ship it',
  footDifference: 'Difference is the largest absolute difference between a row’s probabilities and its source artifact’s, for the same picture. Verified artifacts passed the parity check on real test images with exactly these bytes.',
  footTime: 'Rows run one after another, the server’s first. Each time is one call, in the browser after one warm-up call, and includes reading the answer back.',
  footThreads: (count: number) => `This page may use threads: ${count} processors are seen.`,

  // Race
  race: {
    what: 'The same test images through each row, again and again, one row at a time and each in a worker of its own. The server’s rows include the way there and back.',
    rows: 'Rows',
    all: 'All',
    none: 'None',
    seconds: 'Seconds a row',
    start: 'Start the race',
    cancel: 'Cancel',
    exportJson: 'Export as JSON',
    needsRows: 'Choose at least one row.',
    needsSamples: 'The race runs the test images, and the server offers none: run `make run`.',
    progress: (done: number, all: number) => `${done} of ${all} rows`,
    done: 'The race is over.',
    cancelled: 'Cancelled. What was measured until then is below.',
    hidden: 'The tab was in the background for a while: browsers slow such tabs, so run it again for this row.',
    chart: 'Milliseconds a call, one strip a row: each bar is a share of the calls, the line is the median. The scale is logarithmic.',
    axis: 'ms a call',
    phases: { waiting: 'waiting', load: 'loading', 'warm-up': 'warming up', timed: 'running', done: 'done', failed: 'failed' },
    columns: {
      row: 'Row', backend: 'Runs on', first: 'First answer', warmUp: 'Warm-up', median: 'Median', p95: '95 %', calls: 'Calls',
    },
  },

  // Ship it
  shipping: {
    which: 'Row',
    files: 'Files',
    file: 'File',
    bytes: 'Bytes',
    container: 'Container',
    containerNote: 'The images are built by `make all`: one a runtime, the artifacts of both models inside.',
    snippets: 'Call it',
    copy: 'Copy',
    copied: 'Copied',
    notVerified: (reason: string) => `This artifact is not verified: ${reason}`,
    nothing: 'There is nothing to ship: the server names no artifact.',
  },
};

export type Text = typeof english;
